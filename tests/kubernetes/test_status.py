"""What the authors of resources are told, by the resources themselves: conditions and Events in a real API server,
written by the one control plane that holds the Lease.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from pymesh.control.sources.kubernetes.roots import CONFIG_MAP, KEY
from tests.kubernetes.api import Object
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.planes import Planes
from tests.proxy.running import eventually

_ISTIO = "networking.istio.io/v1"
_GATEWAY_API = "gateway.networking.k8s.io/v1"
#: Of a parent that is ours.
WRONG_ROUTES = [
    ("v1", "HTTPRoute", "rules: [{backendRefs: [{name: nowhere, port: 80}]}]", "ResolvedRefs", "BackendNotFound"),
    ("v1", "GRPCRoute", "rules: [{backendRefs: [{name: nowhere, port: 80}]}]", "ResolvedRefs", "BackendNotFound"),
    ("v1", "TCPRoute", "rules: [{backendRefs: [{name: nowhere, port: 80}]}]", "ResolvedRefs", "BackendNotFound"),
]
MESH = """
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: NAMESPACE}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: edge, namespace: NAMESPACE}
spec:
  selector: {gateway.networking.k8s.io/gateway-name: edge}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: edge, namespace: NAMESPACE, labels: {kubernetes.io/service-name: edge}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.0.9], conditions: {ready: true}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: NAMESPACE}
spec:
  gatewayClassName: pymesh
  listeners:
    - {name: http, port: 8080, protocol: HTTP}
    - {name: tcp, port: 9000, protocol: TCP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: good, namespace: NAMESPACE}
spec:
  parentRefs: [{name: edge}, {group: "", kind: Service, name: cart, port: 80}]
  hostnames: [good.test]
  rules: [{backendRefs: [{name: cart, port: 80}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: NAMESPACE}
spec:
  hosts: [outside.test]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
"""


@pytest.fixture(scope="module")
def where(mesh_apis: Cluster) -> Iterator[tuple[Cluster, str]]:
    with mesh_apis.namespace() as name:
        yield mesh_apis, name


@pytest.fixture(scope="module")
def planes(where: tuple[Cluster, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planes]:
    cluster, _ = where
    made = Planes(cluster, tmp_path_factory.mktemp("planes"))
    try:
        made.start("first")
        yield made
    finally:
        made.close()
        cluster.delete("coordination.k8s.io/v1", "Lease", "pymesh-status", "default")
        cluster.delete(_GATEWAY_API, "GatewayClass", "pymesh", "")


def _until(planes: Planes, what: str, holds: Callable[[], bool], timeout: float = 60) -> None:
    assert eventually(holds, timeout), f"{what}\n{planes.logs()}"


def _conditions(found: Object | None) -> dict[str, Any]:
    return {one["type"]: one for one in (found or {}).get("status", {}).get("conditions", ())}


def test_what_is_in_force_says_so(where: tuple[Cluster, str], planes: Planes) -> None:
    cluster, namespace = where
    cluster.apply(MESH.replace("NAMESPACE", namespace))

    def of(version: str, kind: str, name: str, space: str = namespace) -> Object:
        return cluster.get(version, kind, name, space) or {}

    def programmed() -> bool:
        return _conditions(of(_GATEWAY_API, "Gateway", "edge")).get("Programmed", {}).get("status") == "True"

    _until(planes, "the Gateway is programmed", programmed)
    gateway = of(_GATEWAY_API, "Gateway", "edge")
    address = of("v1", "Service", "edge")["spec"]["clusterIP"]
    assert gateway["status"]["addresses"] == [{"type": "IPAddress", "value": address}]
    assert _conditions(gateway)["Accepted"]["observedGeneration"] == gateway["metadata"]["generation"]
    _until(
        planes,
        "the route is attached",
        lambda: [o["attachedRoutes"] for o in of(_GATEWAY_API, "Gateway", "edge")["status"]["listeners"]] == [1, 0],
    )
    parents = of(_GATEWAY_API, "HTTPRoute", "good")["status"]["parents"]
    assert [one["parentRef"]["name"] for one in parents] == ["edge", "cart"]
    for parent in parents:
        assert {one["type"]: one["status"] for one in parent["conditions"]} == {
            "Accepted": "True",
            "ResolvedRefs": "True",
        }
    entry = of(_ISTIO, "ServiceEntry", "outside")
    assert [one["host"] for one in entry["status"]["addresses"]] == ["outside.test"]
    assert entry["status"]["addresses"][0]["value"].startswith("240.240.")
    _until(
        planes,
        "the class is made, and accepted",
        lambda: _conditions(of(_GATEWAY_API, "GatewayClass", "pymesh", "")).get("Accepted", {}).get("status") == "True",
    )


def test_what_is_mended_is_accepted(where: tuple[Cluster, str], planes: Planes) -> None:
    """What is wrong, of every kind: test_wrong_table.py."""
    cluster, namespace = where

    def accepted() -> tuple[str, str]:
        found = _conditions(cluster.get(_ISTIO, "VirtualService", "mended", namespace)).get("Accepted", {})
        return str(found.get("status", "")), str(found.get("message", ""))

    def leads_to(host: str) -> None:
        match = [{"port": 443, "sniHosts": [host]}]
        spec = {"hosts": [host], "tls": [{"match": match, "route": [{"destination": {"host": "outside.test"}}]}]}
        meta = {"name": "mended", "namespace": namespace}
        cluster.apply([{"apiVersion": _ISTIO, "kind": "VirtualService", "metadata": meta, "spec": spec}])

    leads_to("nowhere.test")
    _until(planes, "it is refused", lambda: accepted()[0] == "False")
    assert "there is no service 'nowhere.test'" in accepted()[1]
    leads_to("outside.test")
    _until(planes, "it is accepted", lambda: accepted() == ("True", ""))


@pytest.mark.parametrize(("version", "kind", "spec", "condition", "reason"), WRONG_ROUTES)
def test_a_route_that_leads_nowhere_says_so_for_its_parent(
    where: tuple[Cluster, str], planes: Planes, version: str, kind: str, spec: str, condition: str, reason: str
) -> None:
    cluster, namespace = where
    listener = "tcp" if kind == "TCPRoute" else "http"
    text = f"{{parentRefs: [{{name: edge, sectionName: {listener}}}], {spec}}}"
    group = f"gateway.networking.k8s.io/{version}"
    meta = {"name": "astray", "namespace": namespace}
    cluster.apply([{"apiVersion": group, "kind": kind, "metadata": meta, "spec": yaml.safe_load(text)}])

    def said() -> list[str]:
        found = cluster.get(group, kind, "astray", namespace) or {}
        parents = found.get("status", {}).get("parents", ())
        return [f"{c['type']}={c['status']} {c['reason']}" for p in parents for c in p["conditions"]]

    try:
        _until(planes, f"{kind} {said()}", lambda: f"{condition}=False {reason}" in said())
        told = said()
    finally:
        # Of two that ask for one host the older one has it, whatever its backends are.
        cluster.delete(group, kind, "astray", namespace)
    # Without a parent it is nowhere in force; without a backend it is, and requests for that fail.
    assert ("Accepted=True Accepted" in told) is (condition == "ResolvedRefs")


def test_a_namespace_is_let_in_by_the_label_that_it_is_given(where: tuple[Cluster, str], planes: Planes) -> None:
    cluster, namespace = where
    allowed = {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"exposed": "yes"}}}}
    listener = {"name": "http", "port": 8090, "protocol": "HTTP", "allowedRoutes": allowed}
    spec: Object = {"gatewayClassName": "pymesh", "listeners": [listener]}
    meta = {"name": "picky", "namespace": namespace}
    cluster.apply([{"apiVersion": _GATEWAY_API, "kind": "Gateway", "metadata": meta, "spec": spec}])
    with cluster.namespace() as another:
        spec = {"parentRefs": [{"name": "picky", "namespace": namespace}]}
        meta = {"name": "guest", "namespace": another}
        cluster.apply([{"apiVersion": _GATEWAY_API, "kind": "HTTPRoute", "metadata": meta, "spec": spec}])

        def accepted() -> str:
            found = cluster.get(_GATEWAY_API, "HTTPRoute", "guest", another) or {}
            told = [c for p in found.get("status", {}).get("parents", ()) for c in p["conditions"]]
            return next((f"{c['status']} {c['reason']}" for c in told if c["type"] == "Accepted"), "")

        def labelled(value: str) -> None:
            meta = {"name": another, "labels": {"exposed": value}}
            cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": meta}])

        for value, wanted in (("", "False NotAllowedByListeners"), ("yes", "True Accepted"), ("no", "False")):
            if value:
                labelled(value)
            _until(planes, f"with label {value!r}", lambda wanted=wanted: accepted().startswith(wanted))  # type: ignore[misc]


def test_a_certificate_that_is_missing_closes_one_listener_until_it_is_there(
    where: tuple[Cluster, str], planes: Planes
) -> None:
    cluster, namespace = where
    tls = {"certificateRefs": [{"name": "late"}]}
    listeners = [
        {"name": "http", "port": 8100, "protocol": "HTTP"},
        {"name": "https", "port": 8443, "protocol": "HTTPS", "tls": tls},
    ]
    spec: Object = {"gatewayClassName": "pymesh", "listeners": listeners}
    meta = {"name": "half", "namespace": namespace}
    cluster.apply([{"apiVersion": _GATEWAY_API, "kind": "Gateway", "metadata": meta, "spec": spec}])
    spec = {"parentRefs": [{"name": "half", "sectionName": "http"}]}
    cluster.apply([{"apiVersion": _GATEWAY_API, "kind": "HTTPRoute", "metadata": meta, "spec": spec}])

    def told() -> list[str]:
        gateway = cluster.get(_GATEWAY_API, "Gateway", "half", namespace) or {}
        status = gateway.get("status", {})
        of_listeners = {one["name"]: _conditions({"status": one}) for one in status.get("listeners", ())}
        resolved = of_listeners.get("https", {}).get("ResolvedRefs", {})
        route = cluster.get(_GATEWAY_API, "HTTPRoute", "half", namespace) or {}
        parents = [c for one in route.get("status", {}).get("parents", ()) for c in one["conditions"]]
        found = [_conditions(gateway).get("Accepted", {}), resolved, *parents]
        return [f"{one.get('status')} {one.get('reason')}" for one in found]

    on = ["True Accepted", "True ResolvedRefs"]
    wanted = ["True ListenersNotValid", "False InvalidCertificateRef", *on]
    _until(planes, "one listener is closed", lambda: told() == wanted)
    issued = cluster.authority.issue("late", dns=["late.test"])
    pair = {"tls.crt": issued.chain.read_bytes(), "tls.key": issued.key.read_bytes()}
    data = {name: base64.b64encode(content).decode() for name, content in pair.items()}
    secret: Object = {"type": "kubernetes.io/tls", "data": data}
    cluster.apply([{"apiVersion": "v1", "kind": "Secret", "metadata": {**meta, "name": "late"}, **secret}])
    _until(planes, "both are open", lambda: told() == ["True Accepted", "True ResolvedRefs", *on])


def test_each_namespace_has_the_roots_that_its_pods_begin_with(where: tuple[Cluster, str], planes: Planes) -> None:
    cluster, namespace = where

    def roots() -> str:
        found = cluster.get("v1", "ConfigMap", CONFIG_MAP, namespace)
        return str(found["data"][KEY]) if found else ""

    _until(planes, "the roots are there", lambda: "BEGIN CERTIFICATE" in roots())
    cluster.delete("v1", "ConfigMap", CONFIG_MAP, namespace)
    with cluster.namespace() as another:
        # A new namespace makes the writer look, and so the removed one is back.
        _until(
            planes, "a new namespace has them", lambda: cluster.get("v1", "ConfigMap", CONFIG_MAP, another) is not None
        )
        _until(planes, "they are back", lambda: "BEGIN CERTIFICATE" in roots())


def test_another_control_plane_writes_when_the_first_is_gone(where: tuple[Cluster, str], planes: Planes) -> None:
    cluster, namespace = where

    def holder() -> str:
        lease = cluster.get("coordination.k8s.io/v1", "Lease", "pymesh-status", "default")
        return str(lease["spec"].get("holderIdentity", "")) if lease else ""

    _until(planes, "somebody leads", lambda: bool(holder()))
    first = holder()
    second = planes.start("second")
    _until(planes, "the second serves", lambda: "ready" in second.output())
    assert holder() == first
    # It is told to end, and lets go.
    planes.running["first"].stop()
    _until(planes, "another leads", lambda: holder() not in ("", first))
    meta = {"name": "late", "namespace": namespace}
    cluster.apply([{"apiVersion": _ISTIO, "kind": "DestinationRule", "metadata": meta, "spec": {"host": "nowhere"}}])
    _until(
        planes,
        "it is told by the second",
        lambda: (
            _conditions(cluster.get(_ISTIO, "DestinationRule", "late", namespace)).get("Accepted", {}).get("status")
            == "False"
        ),
    )
