"""Tokens and external authorizers as the mesh's resources describe them: our proxy and Envoy, as gateways of one
control plane, let the same requests in and send them on alike.

The authorizers and the server of keys are those of the shop, and a real Open Policy Agent.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.interop.test_opa import POLICY, agent
from tests.proxy.controlled import Counted, controlled, write
from tests.proxy.running import eventually
from tests.routing.mesh import Document, Rig, document, running
from tests.routing.outcome import Asked
from tests.tools.certificates import Authority
from tests.tools.ports import free_port, free_ports
from tests.tools.processes import running as process
from tests.tools.signing import Issuer
from tests.tools.wire.client import Answer
from tests.tools.wire.origin import server_context

KINDS = ("pymesh", "envoy")
APPS = Path(__file__).resolve().parents[2] / "examples" / "shop" / "apps"
INLINE, MESH, TLS = Issuer("https://inline.test"), Issuer("mesh@test"), Issuer("tls@test")
#: Whose keys nobody has: nothing listens, the server's name is another, the server says something else.
DEAD, IMPOSTOR, BABBLING = Issuer("dead@test"), Issuer("impostor@test"), Issuer("babbling@test")
STRANGER = Issuer("https://inline.test")


@dataclass(frozen=True)
class Case:
    """A request, and what becomes of it."""

    asked: Asked
    status: int
    #: Headers that the origin sees; None: it does not.
    upstream: Mapping[str, str | None] = field(default_factory=dict)
    #: Headers and a part of the body of the answer.
    answer: Mapping[str, str | None] = field(default_factory=dict)
    body: str = ""


def get(host: str, path: str = "/", **headers: str) -> Asked:
    return Asked(host, path, headers={name.replace("_", "-"): value for name, value in headers.items()})


GOOD = INLINE.token(aud="shop", groups=["staff", "admins"], user={"team": "red"}, scope="read write")
BOB = MESH.token("bob")
CASES = {
    # RequestAuthentication alone.
    "no token": Case(get("open.test"), 200, {"x-subject": None}),
    "a good token": Case(
        get("open.test", authorization=f"Bearer {GOOD}"),
        200,
        {"x-subject": "alice", "x-team": "red", "authorization": None},
    ),
    "what a client writes itself does not count": Case(get("open.test", x_subject="root"), 200, {"x-subject": None}),
    "a token in a parameter": Case(get("open.test", f"/?access_token={GOOD}"), 200, {"x-subject": "alice"}),
    "of another audience": Case(
        get("open.test", authorization=f"Bearer {INLINE.token(aud='bank')}"),
        403,
        body="Audiences in Jwt are not allowed",
    ),
    "expired": Case(
        get("open.test", authorization=f"Bearer {INLINE.token(aud='shop', exp=1)}"), 401, body="Jwt is expired"
    ),
    "signed by somebody else": Case(
        get("open.test", authorization=f"Bearer {STRANGER.token(aud='shop')}"), 401, body="Jwt verification fails"
    ),
    "of an issuer that nobody knows": Case(
        get("open.test", authorization=f"Bearer {Issuer('x').token()}"), 401, body="Jwt issuer is not configured"
    ),
    "no token at all": Case(get("open.test", authorization="Bearer abc"), 401),
    "keys from the mesh": Case(get("open.test", authorization=f"Bearer {MESH.token()}"), 200),
    "a token that is passed on": Case(
        get("open.test", x_mesh_token=f"Mesh {BOB}"), 200, {"x-mesh-token": f"Mesh {BOB}"}
    ),
    "keys over TLS": Case(get("open.test", authorization=f"Bearer {TLS.token()}"), 200),
    "keys from nobody": Case(get("open.test", authorization=f"Bearer {DEAD.token()}"), 401),
    "keys from somebody else": Case(get("open.test", authorization=f"Bearer {IMPOSTOR.token()}"), 401),
    "keys that are none": Case(get("open.test", authorization=f"Bearer {BABBLING.token()}"), 401),
    "a claim leads elsewhere": Case(get("routed.test", authorization=f"Bearer {GOOD}"), 200, answer={"x-origin": "b"}),
    "no claim leads nowhere else": Case(get("routed.test"), 200, answer={"x-origin": "a"}),
    "claims lead elsewhere": Case(get("claimed.test", authorization=f"Bearer {GOOD}"), 200, answer={"x-origin": "b"}),
    "a claim that another lacks": Case(
        get("claimed.test", authorization=f"Bearer {INLINE.token(aud='shop', groups=['admins'])}"),
        200,
        answer={"x-origin": "a"},
    ),
    "a claim that is not wanted": Case(
        get(
            "claimed.test",
            authorization=f"Bearer {INLINE.token('bob', aud='shop', groups=['admins'], user={'team': 'red'})}",
        ),
        200,
        answer={"x-origin": "a"},
    ),
    "nobody's claims": Case(get("claimed.test", x_team="red"), 200, answer={"x-origin": "a"}),
    # AuthorizationPolicy with what tokens say.
    "a token is needed": Case(get("token.test"), 403, body="RBAC: access denied"),
    "a token is there": Case(get("token.test", authorization=f"Bearer {GOOD}"), 200),
    "of the right issuer": Case(get("principal.test", authorization=f"Bearer {GOOD}"), 200),
    "of another issuer": Case(get("principal.test", authorization=f"Bearer {MESH.token('alice')}"), 403),
    "of another subject": Case(get("principal.test", authorization=f"Bearer {INLINE.token('bob', aud='shop')}"), 403),
    "in a group": Case(get("claims.test", authorization=f"Bearer {GOOD}"), 200),
    "in no group": Case(get("claims.test", authorization=f"Bearer {INLINE.token(aud='shop')}"), 403),
    "in another group": Case(
        get("claims.test", authorization=f"Bearer {INLINE.token(aud='shop', groups=['guests'])}"), 403
    ),
    "a group that is no list": Case(
        get(
            "claims.test",
            authorization=f"Bearer {INLINE.token(aud='shop', groups='admins', user={'team': 'red'}, scope='write')}",
        ),
        200,
    ),
    "of another team": Case(
        get(
            "claims.test",
            authorization=f"Bearer {INLINE.token(aud='shop', groups=['admins'], user={'team': 'blue'}, scope='write')}",
        ),
        403,
    ),
    # CUSTOM, over HTTP.
    "no ticket": Case(
        get("http.test", "/a"), 401, answer={"x-reason": "no ticket", "www-authenticate": "Ticket"}, body="/check/a"
    ),
    "a ticket": Case(
        get("http.test", "/a", x_ticket="silver", x_guest="root"),
        200,
        {"x-guest": "bob", "x-seen-by": None},
        {"x-seen-by": "authorizer"},
    ),
    "not for everybody": Case(get("http.test", "/admin", x_ticket="silver"), 403, body="not for everybody"),
    "for some": Case(get("http.test", "/admin", x_ticket="gold"), 200, {"x-guest": "alice"}),
    "what no rule names is not asked about": Case(get("http.test", "/free", x_guest="me"), 200, {"x-guest": "me"}),
    # CUSTOM, over gRPC.
    "gRPC: no ticket": Case(get("grpc.test"), 401, answer={"x-reason": "no ticket"}, body="a ticket, please\n"),
    "gRPC: a ticket": Case(get("grpc.test", x_ticket="silver"), 200, {"x-guest": "bob"}),
    "gRPC: not for everybody": Case(get("grpc.test", "/admin", x_ticket="silver"), 403, answer={"x-reason": "not you"}),
    # CUSTOM, decided by a policy in Rego; it takes the credentials away before they are looked at as a token.
    "OPA: nobody": Case(get("opa.test"), 401, answer={"www-authenticate": "Bearer"}, body="who are you?"),
    "OPA: somebody": Case(
        get("opa.test", authorization="Bearer one"),
        200,
        {"x-user": "ann", "authorization": None},
        {"x-decided-by": "opa"},
    ),
    "OPA: a stranger": Case(get("opa.test", authorization="Bearer three"), 401, body="who are you?"),
    # Nobody to ask.
    "an authorizer that does not listen": Case(get("dead.test", x_ticket="gold"), 503),
    "one that does not listen, and may be done without": Case(get("dead-open.test"), 200),
    "a provider that nobody described": Case(get("nobody.test", x_ticket="gold"), 403, body="RBAC: access denied"),
    "a provider whose service there is not": Case(get("gone.test", x_ticket="gold"), 403, body="RBAC: access denied"),
}


def istio(kind: str, name: str, **spec: Any) -> Document:
    return {**document(kind, name, spec), "apiVersion": "security.istio.io/v1"}


def service(name: str, protocol: str, port: int) -> list[Document]:
    served = [{"name": protocol, "port": 80, "targetPort": port}]
    return [
        document("Service", name, {"selector": {"app": name}, "ports": served}),
        document("WorkloadEntry", name, {"address": "127.0.0.1", "labels": {"app": name}}),
    ]


def outside(host: str, port: int, root: Path) -> list[Document]:
    """A server of keys outside of the mesh, and whose signature it has."""
    entry = {
        "hosts": [host],
        "location": "MESH_EXTERNAL",
        "resolution": "STATIC",
        "ports": [{"number": 443, "name": "https", "protocol": "HTTPS"}],
        "endpoints": [{"address": "127.0.0.1", "ports": {"https": port}}],
    }
    trust = {"tls": {"mode": "SIMPLE", "caCertificates": str(root)}}
    return [
        {**document("ServiceEntry", host, entry), "apiVersion": "networking.istio.io/v1"},
        document("DestinationRule", host, {"host": host, "trafficPolicy": trust}),
    ]


def providers() -> Document:
    """The mesh's configuration: Istio's ConfigMap."""

    def at(host: str, **more: Any) -> Document:
        return {"service": f"{host}.shop.svc.cluster.local", "port": 80, "timeout": "5s", **more}

    over_http = at(
        "http-authorizer",
        pathPrefix="/check",
        includeRequestHeadersInCheck=["x-ticket"],
        headersToUpstreamOnAllow=["x-guest"],
        headersToDownstreamOnAllow=["x-seen-*"],
        headersToDownstreamOnDeny=["x-reason"],
    )
    mesh = {
        "extensionProviders": [
            {"name": "http", "envoyExtAuthzHttp": over_http},
            {"name": "grpc", "envoyExtAuthzGrpc": at("grpc-authorizer")},
            {"name": "opa", "envoyExtAuthzGrpc": at("opa")},
            {"name": "dead", "envoyExtAuthzGrpc": at("dead", statusOnError="503")},
            {"name": "dead-open", "envoyExtAuthzGrpc": at("dead", failOpen=True)},
            {"name": "gone", "envoyExtAuthzGrpc": at("gone")},
        ]
    }
    metadata = {"name": "istio", "namespace": "istio-system"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"mesh": json.dumps(mesh)}}


def policies() -> list[Document]:
    edge = {"selector": {"matchLabels": {"tier": "edge"}}}

    def ask(name: str, *paths: str) -> Document:
        to: Document = {"hosts": [f"{name}.test"], **({"paths": list(paths)} if paths else {})}
        rules = [{"to": [{"operation": to}]}]
        return istio(
            "AuthorizationPolicy", f"ask-{name}", **edge, action="CUSTOM", provider={"name": name}, rules=rules
        )

    def deny_unless(name: str, **when: Any) -> Document:
        return istio(
            "AuthorizationPolicy",
            name,
            **edge,
            action="DENY",
            rules=[{"to": [{"operation": {"hosts": [f"{name}.test"]}}], **when}],
        )

    def keys(issuer: Issuer, **more: Any) -> Document:
        name = issuer.name.rpartition("/")[2].replace("@", "-")
        return istio("RequestAuthentication", name, **edge, jwtRules=[{"issuer": issuer.name, **more}])

    claims = [
        ("request.auth.claims[groups]", "admins"),
        ("request.auth.claims[user][team]", "r*"),
        ("request.auth.claims[scope]", "write"),
        ("request.auth.audiences", "shop"),
    ]
    headers = [{"header": "x-subject", "claim": "sub"}, {"header": "x-team", "claim": "user.team"}]
    return [
        keys(INLINE, jwks=INLINE.jwks, audiences=["shop"], outputClaimToHeaders=headers),
        keys(
            MESH,
            jwksUri="http://keys/keys.json",
            fromHeaders=[{"name": "authorization", "prefix": "Bearer "}, {"name": "x-mesh-token", "prefix": "Mesh "}],
            forwardOriginalToken=True,
        ),
        keys(TLS, jwksUri="https://keys.test/keys.json"),
        keys(DEAD, jwksUri="http://dead/keys.json", timeout="1s"),
        keys(IMPOSTOR, jwksUri="https://impostor.test/keys.json"),
        keys(BABBLING, jwksUri="http://a/keys.json"),
        deny_unless("token", **{"from": [{"source": {"notRequestPrincipals": ["*"]}}]}),
        deny_unless("principal", **{"from": [{"source": {"notRequestPrincipals": [f"{INLINE.name}/alice"]}}]}),
        *(
            istio(
                "AuthorizationPolicy",
                f"claims-{number}",
                **edge,
                action="DENY",
                rules=[
                    {"to": [{"operation": {"hosts": ["claims.test"]}}], "when": [{"key": key, "notValues": [value]}]}
                ],
            )
            for number, (key, value) in enumerate(claims)
        ),
        ask("http", "/a*"),
        ask("grpc"),
        ask("opa"),
        ask("dead"),
        ask("dead-open"),
        ask("gone"),
        ask("nobody"),
    ]


def routes(ports: Mapping[str, int]) -> list[Document]:
    made = []
    for kind, port in ports.items():
        server = {"port": {"number": port, "protocol": "HTTP", "name": "http"}, "hosts": ["*"]}
        made.append(document("Gateway", kind, {"selector": {"gateway": kind}, "servers": [server]}))
    first, second = ({"route": [{"destination": {"host": name, "port": {"number": 80}}}]} for name in ("a", "b"))
    red = {"exact": "red"}
    by_header = [{"match": [{"headers": {"x-team": red}}], **second}, first]
    claims = {"@request.auth.claims.user.team": red, "@request.auth.claims[groups]": {"prefix": "adm"}}
    by_claim = [
        {"match": [{"headers": claims, "withoutHeaders": {"@request.auth.claims.sub": {"exact": "bob"}}}], **second},
        first,
    ]
    for host, rules in (("*", [first]), ("routed.test", by_header), ("claimed.test", by_claim)):
        spec = {"hosts": [host], "gateways": list(ports), "http": rules}
        made.append(document("VirtualService", host.replace("*", "all"), spec))
    return made


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("security")
    authority = Authority(folder)
    with ExitStack() as stack:
        apps = {"authorizer.py": {}, "grpc_authorizer.py": {}, "keys.py": {"KEYS": MESH.jwks}}
        listening = dict(zip(apps, free_ports(len(apps)), strict=True))
        for name, env in apps.items():
            argv = ["env", f"PORT={listening[name]}", *(f"{key}={value}" for key, value in env.items())]
            stack.enter_context(process([*argv, sys.executable, str(APPS / name)], title=name, ports=[listening[name]]))
        (folder / "policy.rego").write_text(POLICY)
        listening["opa"] = free_port()
        stack.enter_context(agent(listening["opa"], folder / "policy.rego"))
        servers = []
        for host, shown in (("keys.test", "keys.test"), ("impostor.test", "somebody.test")):
            pair = authority.issue(shown, dns=[shown])
            jwks = (TLS if host == "keys.test" else IMPOSTOR).jwks
            server = Counted(host, context=server_context(pair, ["http/1.1"]), body=jwks)
            stack.enter_context(server.serving())
            servers += outside(host, server.port, authority.root)
        ports = dict(zip(KINDS, free_ports(len(KINDS)), strict=True))
        written = [
            *service("http-authorizer", "http", listening["authorizer.py"]),
            *service("grpc-authorizer", "grpc", listening["grpc_authorizer.py"]),
            *service("opa", "grpc", listening["opa"]),
            *service("keys", "http", listening["keys.py"]),
            *service("dead", "grpc", free_port()),
            *servers,
            providers(),
            *policies(),
            *routes(ports),
        ]
        made = stack.enter_context(running(folder, written, ports, gateways=KINDS))
        # Keys come a moment after the listener.
        keyed = [get("open.test", authorization=f"Bearer {one.token()}") for one in (MESH, TLS)]
        for kind in KINDS:
            assert eventually(lambda kind=kind: {one.status for one in made.ask(kind, keyed)} == {200}, 30), (  # type: ignore[misc]
                [one.body for one in made.ask(kind, keyed)],
                made.proxies[kind].process.tail(),
            )
        yield made


@pytest.mark.parametrize("name", CASES)
def test_the_same_requests_get_in(rig: Rig, name: str) -> None:
    case = CASES[name]
    answers = {kind: rig.ask(kind, [case.asked])[0] for kind in KINDS}
    for kind, answer in answers.items():
        assert not list(wrong(case, answer)), (kind, answer)
    refused = {(one.status, one.body, one.header("www-authenticate")) for one in answers.values()}
    assert case.status == 200 or len(refused) == 1, refused


def wrong(case: Case, answer: Answer) -> Iterator[str]:
    """What is not as said."""
    if answer.status != case.status:
        yield f"{answer.status} and not {case.status}"
        return
    if case.body not in answer.body.decode():
        yield f"no {case.body!r} in {answer.body!r}"
    for name, value in case.answer.items():
        if answer.header(name) != value:
            yield f"{name}: {answer.header(name)!r} and not {value!r}"
    if case.upstream:
        seen = dict(json.loads(answer.body)["headers"])
        for name, value in case.upstream.items():
            if seen.get(name) != value:
                yield f"upstream {name}: {seen.get(name)!r} and not {value!r}"


#: Provider of the policy for a port -> whether connections get in. The shop's authorizer lets those in of whose owner
#: it is told; here nobody has an identity.
CONNECTIONS = {"grpc": False, "http": False, "nobody": False, "dead": False, "dead-open": True, "": True}


@pytest.mark.parametrize("kind", KINDS)
def test_connections_are_asked_about(kind: str, tmp_path: Path) -> None:
    ports = dict(zip(CONNECTIONS, free_ports(len(CONNECTIONS)), strict=True))
    with ExitStack() as stack:
        app = free_port()
        argv = ["env", f"PORT={app}", sys.executable, str(APPS / "grpc_authorizer.py")]
        stack.enter_context(process(argv, title="authorizer", ports=[app]))
        server = stack.enter_context(Counted("server").serving())
        ingress = [
            {
                "port": {"number": port, "protocol": "TCP", "name": f"tcp-{name}"},
                "bind": "127.0.0.1",
                "defaultEndpoint": f"127.0.0.1:{server.port}",
            }
            for name, port in ports.items()
        ]
        written = [
            *service("http-authorizer", "http", free_port()),
            *service("grpc-authorizer", "grpc", app),
            *service("dead", "grpc", free_port()),
            providers(),
            {**document("Sidecar", "server", {"ingress": ingress}), "apiVersion": "networking.istio.io/v1"},
            istio("PeerAuthentication", "plain", mtls={"mode": "DISABLE"}),
        ]
        for name, port in ports.items():
            rules = [{"to": [{"operation": {"ports": [str(port)]}}]}]
            spec = {"action": "CUSTOM", "provider": {"name": name}, "rules": rules}
            written += [istio("AuthorizationPolicy", f"ask-{name}", **spec)] if name else []
        write(tmp_path, "all.yaml", yaml.safe_dump_all(written))
        node = "sidecar~127.0.0.1~server-1.shop~shop.svc.cluster.local"
        made = stack.enter_context(controlled(kind, tmp_path, node, {"app": "server"}))
        made.process.wait_for_ports(list(ports.values()), 60)
        assert {name: gets_in(port) for name, port in ports.items()} == CONNECTIONS, made.process.tail()
        assert server.requests == sum(CONNECTIONS.values())


def gets_in(port: int) -> bool:
    """Whether a connection leads to the server, for whom it is one of octets that happen to be HTTP."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/1.1 200")
        except ConnectionError:
            return False
