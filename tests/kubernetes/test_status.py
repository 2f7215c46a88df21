"""What the authors of resources are told, by the resources themselves: conditions and Events in a real API server,
written by the one control plane that holds the Lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from pymesh.control.sources.kubernetes.roots import CONFIG_MAP, KEY
from tests.kubernetes.api import Object
from tests.kubernetes.cluster import Cluster
from tests.proxy.running import eventually, pymesh
from tests.tools.processes import Running, running

_ISTIO = "networking.istio.io/v1"
_SECURITY = "security.istio.io/v1"
_GATEWAY_API = "gateway.networking.k8s.io/v1"
_OURS = "extensions.pymesh.dev/v1alpha1"
_NO_SERVICE = "there is no service"

#: Version, kind, spec; and what is said of it, with the field that it is about.
WRONG = [
    (_ISTIO, "VirtualService", "{hosts: [nowhere], http: [{route: [{destination: {host: cart}}]}]}",
     "spec.hosts: there is no service 'nowhere'"),
    (_ISTIO, "DestinationRule", "{host: nowhere}", "spec.host: there is no service 'nowhere'"),
    (_ISTIO, "Gateway",
     "{selector: {a: b}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], "
     "tls: {mode: SIMPLE, credentialName: none}}]}", "there is no Secret"),
    (_ISTIO, "ServiceEntry",
     "{hosts: [a.test], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, "
     "endpoints: [{address: b.test}]}", "b.test"),
    (_ISTIO, "WorkloadEntry", "{address: 'unix:///run/a.sock'}", "is a Unix socket"),
    (_ISTIO, "Sidecar", "{egress: [{hosts: ['NAMESPACE/nowhere.test']}]}", "there is no service"),
    (_SECURITY, "AuthorizationPolicy", "{rules: [{to: [{operation: {ports: [http]}}]}]}", "'http' is not a port"),
    (_SECURITY, "RequestAuthentication", "{jwtRules: [{issuer: a, jwks: '{'}]}", "the keys are not JSON"),
    (_GATEWAY_API, "Gateway",
     "{gatewayClassName: pymesh, listeners: [{name: a, port: 443, protocol: HTTPS, "
     "tls: {certificateRefs: [{name: none}]}}]}", "there is no Secret"),
    (_OURS, "PythonFilter",
     "{class: 'f:F', selector: {matchLabels: {a: b}}, source: 'class F(:'}", "spec.source"),
    (_OURS, "LocalRateLimit",
     "{selector: {matchLabels: {a: b}}, rules: [{limit: {requests: 1}, headers: {a: {regex: '('}}}]}",
     "'(' is not a regular expression"),
    (_OURS, "HealthCheckPolicy", "{targetRefs: [{kind: Service, name: nowhere}], http: {path: /}}", _NO_SERVICE),
]  # fmt: skip
#: A kind whose status is others' has an Event alone.
WRONG_SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: sticky, namespace: NAMESPACE}
spec: {sessionAffinity: ClientIP, ports: [{name: http, port: 80}]}
"""
#: Of a parent that is ours.
WRONG_ROUTES = [
    ("v1", "HTTPRoute", "rules: [{backendRefs: [{name: nowhere, port: 80}]}]", "ResolvedRefs", "BackendNotFound"),
    ("v1", "GRPCRoute", "rules: [{backendRefs: [{name: nowhere, port: 80}]}]", "ResolvedRefs", "BackendNotFound"),
    ("v1alpha2", "TCPRoute", "rules: [{backendRefs: [{name: nowhere, port: 80}]}]", "ResolvedRefs", "BackendNotFound"),
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


class Planes:
    """Control planes of one cluster."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._stack = ExitStack()
        self.running: dict[str, Running] = {}

    def start(self, name: str) -> Running:
        state = self._folder / name
        argv = [*pymesh(), "control", "--kubernetes", "--kubeconfig", str(self._cluster.kubeconfig)]
        argv += ["--state", str(state), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--auto-allocate"]
        made = self._stack.enter_context(running(argv, title=f"control plane {name}"))
        self.running[name] = made
        return made

    def close(self) -> None:
        self._stack.close()

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{one.tail(60)}" for name, one in self.running.items())


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


def _wrong(number: int, namespace: str) -> tuple[Object, str]:
    version, kind, spec, said = WRONG[number]
    written = yaml.safe_load(spec.replace("NAMESPACE", namespace))
    meta = {"name": f"wrong-{number}", "namespace": namespace}
    return {"apiVersion": version, "kind": kind, "metadata": meta, "spec": written}, said


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


def test_what_is_wrong_says_what_and_where_and_the_rest_goes_on(where: tuple[Cluster, str], planes: Planes) -> None:
    cluster, namespace = where
    wrong = [_wrong(number, namespace) for number in range(len(WRONG))]
    cluster.apply([one for one, _ in wrong])
    (service,) = cluster.apply(WRONG_SERVICE.replace("NAMESPACE", namespace))

    def told(one: Object) -> str:
        meta = one["metadata"]
        found = _conditions(cluster.get(one["apiVersion"], one["kind"], meta["name"], namespace))
        accepted = found.get("Accepted", {})
        return str(accepted.get("message", "")) if accepted.get("status") == "False" else ""

    def untold() -> list[str]:
        return [f"{one['kind']}: {text!r} not in {told(one)!r}" for one, text in wrong if text not in told(one)]

    assert eventually(lambda: not untold(), 60), f"{untold()}\n{planes.logs()}"

    def notes() -> dict[str, str]:
        found = cluster.list("events.k8s.io/v1", "Event", namespace)
        return {
            f"{o['regarding']['kind']} {o['regarding']['name']}": o["note"] for o in found if o["reason"] == "Refused"
        }

    def unsaid() -> list[str]:
        said = notes()
        return [
            f"{one['kind']}: {text!r} in no Event"
            for one, text in [*wrong, (service, "spec.sessionAffinity")]
            if text not in said.get(f"{one['kind']} {one['metadata']['name']}", "")
        ]

    assert eventually(lambda: not unsaid(), 60), f"{unsaid()}\n{planes.logs()}"
    good = cluster.get(_GATEWAY_API, "HTTPRoute", "good", namespace)
    assert good is not None
    assert {c["status"] for p in good["status"]["parents"] for c in p["conditions"]} == {"True"}
    # What is mended is accepted.
    meta = {"name": "wrong-0", "namespace": namespace}
    match = [{"port": 443, "sniHosts": ["outside.test"]}]
    spec = {"hosts": ["outside.test"], "tls": [{"match": match, "route": [{"destination": {"host": "outside.test"}}]}]}
    cluster.apply([{"apiVersion": _ISTIO, "kind": "VirtualService", "metadata": meta, "spec": spec}])
    _until(
        planes,
        "the VirtualService is accepted",
        lambda: (
            _conditions(cluster.get(_ISTIO, "VirtualService", "wrong-0", namespace))["Accepted"]["status"] == "True"
        ),
    )


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

    _until(planes, f"{kind} {said()}", lambda: f"{condition}=False {reason}" in said())
    assert any(one.startswith("Accepted=False") for one in said()), "what is not in force is not accepted"


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
