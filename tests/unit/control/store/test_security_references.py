"""What security resources name: services, gateways, providers, servers of keys."""

from __future__ import annotations

import pytest

from tests.tools.told import assembled

SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: opa, namespace: authz}
spec: {selector: {app: opa}, ports: [{name: grpc, port: 9191}, {name: http, port: 80}, {name: tcp-data, port: 90}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: opa, namespace: authz}
spec: {address: 10.0.0.1, labels: {app: opa, security.istio.io/tlsMode: istio}}
---
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: authz}
spec: {selector: {app: bare}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: bare, namespace: authz}
spec: {address: 10.0.0.2, labels: {app: bare}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: away, namespace: authz}
spec:
  hosts: [away.example]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 443, name: https, protocol: HTTPS}, {number: 80, name: http, protocol: HTTP}]
---
"""
BEFORE = SERVICES.count("\n")


def at(line: int, column: int, rest: str) -> str:
    return f"f:{BEFORE + line}:{column}: {rest}"


def config_map(provider: str, namespace: str = "istio-system") -> str:
    return (
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: {namespace}}}\n"
        f"data:\n  mesh: |\n    extensionProviders: [{{name: opa, {provider}}}]\n"
    )


def grpc(service: str, port: int) -> str:
    return config_map(f"envoyExtAuthzGrpc: {{service: {service}, port: {port}}}")


PROVIDERS = {
    "a service that there is not": (
        grpc("oper.authz.svc.cluster.local", 9191),
        at(
            6, 67, "warning: there is no service 'oper.authz.svc.cluster.local': what its policies name is refused\n"
            "  hint: did you mean 'opa.authz.svc.cluster.local'?"
        ),
    ),
    "a service of another namespace": (
        grpc("shop/opa.authz.svc.cluster.local", 9191),
        at(
            6, 67, "warning: there is no service 'shop/opa.authz.svc.cluster.local':"
            " what its policies name is refused\n"
            "  hint: write a Service or a ServiceEntry for it"
        ),
    ),
    "a port that there is not": (
        grpc("opa.authz.svc.cluster.local", 1),
        at(
            6, 102, "warning: 'opa.authz.svc.cluster.local' has no port 1: what its policies name is refused\n"
            "  hint: known: 9191, 80, 90"
        ),
    ),
    "gRPC at a port of HTTP/1.1": (
        grpc("opa.authz.svc.cluster.local", 80),
        at(
            6, 102, "warning: port 80 of 'opa.authz.svc.cluster.local' is HTTP, not GRPC: what its policies name is"
            " refused\n  hint: begin the port's name with 'grpc', or set appProtocol"
        ),
    ),
    "HTTP at a port of TCP": (
        config_map("envoyExtAuthzHttp: {service: opa.authz.svc.cluster.local, port: 90}"),
        at(
            6, 102, "warning: port 90 of 'opa.authz.svc.cluster.local' is TCP, not HTTP: what its policies name is"
            " refused\n  hint: begin the port's name with 'http', or set appProtocol"
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_that_cannot_be_asked_is_told_and_left_out(name: str) -> None:
    text, message = PROVIDERS[name]
    store, told = assembled(SERVICES + text)
    assert told == [message]
    assert store.providers.authorizers == {}


@pytest.mark.parametrize(
    "service", ["opa.authz.svc.cluster.local", "authz/opa.authz.svc.cluster.local", "authz/opa", "opa.authz"]
)
def test_a_provider_is_found_by_each_of_its_names(service: str) -> None:
    store, told = assembled(SERVICES + grpc(service, 9191))
    assert told == []
    found = store.providers.authorizers["opa"]
    assert (found.service.host, found.port.number) == ("opa.authz.svc.cluster.local", 9191)


def test_the_configuration_of_the_mesh_is_in_the_root_namespace() -> None:
    _, told = assembled(SERVICES + config_map("envoyExtAuthzGrpc: {service: opa.authz, port: 9191}", "shop"))
    assert told == [
        at(
            3,
            36,
            "error: ConfigMap shop/istio is not in the root namespace\n  hint: namespace: istio-system",
        )
    ]


def test_a_policy_that_asks_nobody_is_told() -> None:
    policy = (
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask, namespace: shop}\n"
        "spec: {action: CUSTOM, provider: {name: oopa}, rules: [{}]}\n"
    )
    _, told = assembled(SERVICES + grpc("opa.authz", 9191) + policy)
    assert told == [
        at(
            11,
            41,
            "warning: there is no extension provider 'oopa': what AuthorizationPolicy shop/ask names is refused\n"
            "  hint: did you mean 'opa'?",
        )
    ]


def tokens(uri: str) -> str:
    return (
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a, namespace: shop}\n"
        f"spec: {{jwtRules: [{{issuer: a, jwksUri: '{uri}'}}]}}\n"
    )


OUTSIDE = (
    "would come from outside of the mesh without TLS: anybody could exchange them\n"
    "  hint: use https://, or name a service of the mesh"
)
KEYS = {
    "from a service of the mesh": ("http://opa.authz/keys", []),
    "from anywhere over TLS": ("https://issuer.example/keys", []),
    "from a service outside of the mesh over TLS": ("https://away.example/keys", []),
    "from anywhere in plain text": (
        "http://issuer.example/keys",
        [at(4, 40, f"error: keys from 'http://issuer.example/keys' {OUTSIDE}")],
    ),
    "from a service outside of the mesh in plain text": (
        "http://away.example/keys",
        [at(4, 40, f"error: keys from 'http://away.example/keys' {OUTSIDE}")],
    ),
    "from a service without a proxy": (
        "http://bare.authz/keys",
        [
            at(
                4,
                40,
                "warning: keys from 'bare.authz.svc.cluster.local' come in plain text: not all of its endpoints speak"
                " mutual TLS\n  hint: give all of them a proxy, or use https://",
            )
        ],
    ),
    "from a port that there is not": (
        "http://opa.authz:81/keys",
        [
            at(
                4,
                40,
                "error: 'opa.authz.svc.cluster.local' has no port 81\n  hint: known: 9191, 80, 90",
            )
        ],
    ),
    "from a port that is not HTTP": (
        "http://opa.authz:90/keys",
        [
            at(
                4,
                40,
                "error: port 90 of 'opa.authz.svc.cluster.local' is TCP, not HTTP\n"
                "  hint: begin the port's name with 'http', or set appProtocol",
            )
        ],
    ),
    "over TLS within TLS": (
        "https://opa.authz:9191/keys",
        [
            at(
                4,
                40,
                "error: 'opa.authz.svc.cluster.local' is in the mesh, where connections are mutual TLS already\n"
                "  hint: write http:// and the number of an HTTP port",
            )
        ],
    ),
    "from a port of an outside service that there is not": (
        "https://away.example:444/keys",
        [at(4, 40, "error: 'away.example' has no port 444\n  hint: known: 443, 80")],
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_where_keys_may_come_from(name: str) -> None:
    uri, wanted = KEYS[name]
    assert assembled(SERVICES + tokens(uri))[1] == wanted


def test_sidecars_of_clients_know_no_claims() -> None:
    text = (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: authz}\n"
        "spec: {hosts: [opa], http: [{match: [{headers: {'@request.auth.claims.sub': {exact: a}}}], "
        "route: [{destination: {host: opa, port: {number: 80}}}]}]}\n"
    )
    assert assembled(SERVICES + text)[1] == [
        at(
            4,
            38,
            "error: '@request.auth.claims.sub': sidecars of clients know no claims of tokens\n"
            "  hint: name the gateways under 'gateways', without 'mesh'",
        )
    ]


#: Kind -> version, and what it says beside its targets.
TARGETING = {
    "AuthorizationPolicy": ("security.istio.io/v1", "rules: [{}]"),
    "RequestAuthentication": ("security.istio.io/v1", "jwtRules: [{issuer: a, jwksUri: 'https://a.example'}]"),
    "PythonFilter": ("extensions.pymesh.dev/v1alpha1", "class: 'f:F'"),
    "LocalRateLimit": ("extensions.pymesh.dev/v1alpha1", "total: {requests: 1}"),
}


@pytest.mark.parametrize("kind", TARGETING)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "{kind: Service, name: oqa}",
            "there is no Service authz/oqa: nothing is selected by it\n  hint: did you mean 'opa'?",
        ),
        ("{kind: Service, name: opa.authz}", ""),
        (
            "{kind: Gateway, name: door, group: gateway.networking.k8s.io}",
            "there is no Gateway authz/door: nothing is selected by it",
        ),
    ],
)
def test_a_target_that_there_is_not_selects_nothing(kind: str, target: str, message: str) -> None:
    version, rest = TARGETING[kind]
    text = (
        f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, namespace: authz}}\n"
        f"spec: {{targetRefs: [{target}, {{kind: Service, name: opa}}], {rest}}}\n"
    )
    assert assembled(SERVICES + text)[1] == ([at(4, 43, f"warning: {message}")] if message else [])
