"""Objects that an API server takes and a mesh cannot use: each is told of at its place, and nothing else suffers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pymesh.control.sources.kubernetes.mesh import KubernetesMesh
from pymesh.control.xds import pb
from tests.kubernetes.cluster import Cluster, Object
from tests.kubernetes.meshes import Described, configuration, following

ISTIO, SECURITY = "networking.istio.io/v1", "security.istio.io/v1"
GATEWAY_API = "gateway.networking.k8s.io/v1"


def one(version: str, kind: str, name: str, **fields: Any) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}


def route(**to: Any) -> Any:
    return [{"route": [{"destination": to}]}]


GOOD = (
    one("v1", "Service", "web", spec={"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}),
    one("v1", "Service", "cart", spec={"selector": {"app": "cart"}, "ports": [{"name": "http", "port": 80}]}),
    one(
        ISTIO, "DestinationRule", "web", spec={"host": "web", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]}
    ),
    one(ISTIO, "VirtualService", "web", spec={"hosts": ["web"], "http": route(host="web", subset="v1")}),
)

#: Object -> the field that is wrong, and the message.
WRONG: tuple[tuple[Object, str, str], ...] = (
    (
        one("v1", "Service", "far", spec={"type": "ExternalName", "externalName": "10.0.0.1", "ports": [{"port": 80}]}),
        "spec.externalName",
        "'10.0.0.1' is not a host name",
    ),
    (
        one(ISTIO, "VirtualService", "lost", spec={"hosts": ["nobody"], "http": route(host="cart")}),
        "spec.hosts",
        "there is no service 'nobody'",
    ),
    (
        one(ISTIO, "DestinationRule", "lost", spec={"host": "nobody.shop.svc.cluster.local"}),
        "spec.host",
        "there is no service 'nobody.shop.svc.cluster.local'",
    ),
    (
        one(
            ISTIO, "ServiceEntry", "names",
            spec={
                "hosts": ["db.example"], "resolution": "STATIC",
                "ports": [{"number": 1, "name": "tcp", "protocol": "TCP"}],
                "endpoints": [{"address": "not-an-ip.example"}],
            },
        ),
        "spec",
        "'not-an-ip.example' is not an IP address",
    ),
    (
        one(
            ISTIO, "Sidecar", "far",
            spec={"workloadSelector": {"labels": {"app": "nobody"}}, "egress": [{"hosts": ["nobody.example"]}]},
        ),
        "spec.egress[0].hosts",
        "'nobody.example' is not NAMESPACE/HOST",
    ),
    (
        one(SECURITY, "AuthorizationPolicy", "shut", spec={
            "selector": {"matchLabels": {"app": "web"}},
            "rules": [{"when": [{"key": "request.moon", "values": ["full"]}]}],
        }),
        "spec.rules[0].when[0].key",
        "'request.moon' is no condition",
    ),
    (
        one(GATEWAY_API, "HTTPRoute", "orphan", spec={"parentRefs": [{"name": "no-gateway"}]}),
        "spec.parentRefs[0].name",
        "there is no Gateway ",
    ),
    (
        one("networking.istio.io/v1alpha3", "EnvoyFilter", "patch", spec={"configPatches": []}),
        "kind",
        "kind EnvoyFilter is not supported yet",
    ),
)  # fmt: skip


#: What no parser of ours takes, in fields that a definition leaves open: a name, the field as JSON -> the message.
WITHOUT_END = (
    ("sum", "source", f'"x = 1{"+1" * 60000}"', "the filter's source is nested too deeply to be parsed"),
    ("deep", "config", '{"k":' * 600 + "1" + "}" * 600, "the object is nested too deeply"),
    ("deeper", "config", '{"k":' * 1500 + "1" + "}" * 1500, "the object is nested too deeply"),
)


def told(mesh: KubernetesMesh) -> list[tuple[str, str]]:
    return [(found["at"], found["message"]) for found in mesh.diagnostics() if found["severity"] == "error"]


@pytest.fixture
def filled(mesh_apis: Cluster, namespace: str) -> str:
    mesh_apis.apply([placed(each, namespace) for each in GOOD])
    return namespace


def placed(each: Object, namespace: str) -> Object:
    return {**each, "metadata": {**each["metadata"], "namespace": namespace}}


def test_each_is_told_of_and_the_rest_goes_on(mesh_apis: Cluster, filled: str) -> None:
    proxy = Described(
        f"sidecar~10.1.0.9~cart-1.{filled}~x", {"INTERCEPTION_MODE": "REDIRECT", "LABELS": {"app": "cart"}}
    )
    guarded = Described(
        f"sidecar~10.1.0.8~web-1.{filled}~x", {"INTERCEPTION_MODE": "REDIRECT", "LABELS": {"app": "web"}}
    )
    with following(mesh_apis.kubeconfig, grace_seconds=0) as followed:
        followed.until(lambda mesh: told(mesh) == [])
        alone = configuration(followed.mesh, [proxy, guarded])
        for wrong, field, message in WRONG:
            mesh_apis.apply([placed(wrong, filled)])
            at = f"{wrong['kind']}/{filled}/{wrong['metadata']['name']}:{field}"

            def is_told(mesh: KubernetesMesh, at: str = at, message: str = message) -> bool:
                return any(where.startswith(at) and message in text for where, text in told(mesh))

            followed.until(is_told)
            now = configuration(followed.mesh, [proxy, guarded])
            assert now[proxy.id] == alone[proxy.id], wrong["metadata"]["name"]
            # A door whose policy cannot be read is shut.
            assert (now[guarded.id] == alone[guarded.id]) is (wrong["kind"] != "AuthorizationPolicy")
            mesh_apis.delete(wrong["apiVersion"], wrong["kind"], wrong["metadata"]["name"], filled)
            followed.until(lambda mesh: told(mesh) == [])
        assert configuration(followed.mesh, [proxy, guarded]) == alone


def test_who_deletes_a_service_takes_nothing_from_those_who_name_others_beside_it(
    mesh_apis: Cluster, filled: str
) -> None:
    """By list as by watch, and until it is there again."""
    proxy = Described(
        f"sidecar~10.1.0.9~cart-1.{filled}~x", {"INTERCEPTION_MODE": "REDIRECT", "LABELS": {"app": "cart"}}
    )
    split = [{"timeout": "3s", "route": [{"destination": {"host": name}, "weight": 50} for name in ("web", "cart")]}]
    both = placed(one(ISTIO, "VirtualService", "web", spec={"hosts": ["web"], "http": split}), filled)
    field = "spec.http[0].route[1].destination.host"
    with following(mesh_apis.kubeconfig, grace_seconds=0) as followed:
        mesh_apis.apply([both])
        followed.until(lambda mesh: told(mesh) == [] and _table(mesh, proxy).count(b"cart.") > 0)
        whole = configuration(followed.mesh, [proxy])
        mesh_apis.delete("v1", "Service", "cart", filled)
        at = f"VirtualService/{filled}/web:{field}"
        followed.until(lambda mesh: told(mesh) == [(at, "there is no service 'cart'")])
        assert b"outbound|80||cart" in _table(followed.mesh, proxy), "its share fails"
        with following(mesh_apis.kubeconfig, grace_seconds=0) as newcomer:
            expected = configuration(newcomer.mesh, [proxy])
        assert configuration(followed.mesh, [proxy]) == expected
        mesh_apis.apply([placed(GOOD[1], filled)])
        followed.until(lambda mesh: told(mesh) == [])
        assert configuration(followed.mesh, [proxy]).keys() == whole.keys()


def _table(mesh: KubernetesMesh, proxy: Described) -> bytes:
    return mesh.messages(proxy)[pb.ROUTES]["80"].SerializeToString()


def test_what_has_no_end_is_an_error_of_its_own(mesh_apis: Cluster, filled: str) -> None:
    """By list as by watch: who comes when it is there already has the rest, too."""
    proxy = Described(
        f"sidecar~10.1.0.9~cart-1.{filled}~x", {"INTERCEPTION_MODE": "REDIRECT", "LABELS": {"app": "cart"}}
    )
    version, kind = "extensions.pymesh.dev/v1alpha1", "PythonFilter"

    def all_told(mesh: KubernetesMesh) -> bool:
        found = dict(told(mesh))
        return len(found) == len(WITHOUT_END) and all(
            any(at.startswith(f"{kind}/{filled}/{name}:spec.{field}") and text == message for at, text in found.items())
            for name, field, _, message in WITHOUT_END
        )

    with following(mesh_apis.kubeconfig, grace_seconds=0) as followed:
        followed.until(lambda mesh: told(mesh) == [])
        alone = configuration(followed.mesh, [proxy])
        for name, field, value, _ in WITHOUT_END:
            # No encoder of ours goes that deep either.
            bare = placed(one(version, kind, name, spec={"selector": {"matchLabels": {"app": "web"}}}), filled)
            whole = json.dumps(bare | {"spec": {**bare["spec"], "class": "f:F", field: "HERE"}})
            posted = whole.replace('"HERE"', value).encode()
            mesh_apis.request("POST", mesh_apis.path(version, kind, "", filled), posted)
        followed.until(all_told)
        assert configuration(followed.mesh, [proxy]) == alone
        with following(mesh_apis.kubeconfig, grace_seconds=0) as newcomer:
            newcomer.until(all_told)
            assert configuration(newcomer.mesh, [proxy]) == alone


def test_a_change_that_is_wrong_for_a_moment_changes_nothing(mesh_apis: Cluster, filled: str) -> None:
    """The route comes before the subset that it names: the old route stays until that is there."""
    proxy = Described(
        f"sidecar~10.1.0.9~cart-1.{filled}~x", {"INTERCEPTION_MODE": "REDIRECT", "LABELS": {"app": "cart"}}
    )
    after = one(ISTIO, "VirtualService", "web", spec={"hosts": ["web"], "http": route(host="web", subset="v2")})
    subsets = [{"name": name, "labels": {"version": name}} for name in ("v1", "v2")]
    with following(mesh_apis.kubeconfig, grace_seconds=60) as followed:
        before = configuration(followed.mesh, [proxy])
        mesh_apis.apply([placed(after, filled)])
        followed.until(lambda mesh: told(mesh) != [])
        assert configuration(followed.mesh, [proxy]) == before
        mesh_apis.apply(
            [placed(one(ISTIO, "DestinationRule", "web", spec={"host": "web", "subsets": subsets}), filled)]
        )
        followed.until(lambda mesh: told(mesh) == [])
        assert any("v2" in name for _, name in configuration(followed.mesh, [proxy])[proxy.id])
        assert configuration(followed.mesh, [proxy]) != before


def test_a_change_that_stays_wrong_is_left_out_by_everybody(mesh_apis: Cluster, filled: str) -> None:
    """Who has seen the good version and who has not come to the same."""
    proxy = Described(
        f"sidecar~10.1.0.9~cart-1.{filled}~x", {"INTERCEPTION_MODE": "REDIRECT", "LABELS": {"app": "cart"}}
    )
    after = one(ISTIO, "VirtualService", "web", spec={"hosts": ["web"], "http": route(host="web", subset="v9")})
    with following(mesh_apis.kubeconfig, grace_seconds=0.5) as followed:
        before = configuration(followed.mesh, [proxy])
        mesh_apis.apply([placed(after, filled)])
        with following(mesh_apis.kubeconfig) as newcomer:
            expected = configuration(newcomer.mesh, [proxy])
        assert expected != before
        followed.until(lambda mesh: configuration(mesh, [proxy]) == expected)
