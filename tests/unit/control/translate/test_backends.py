"""Backends of the Gateway API's routes that cannot be used: each has its share, and what gets it fails."""

from __future__ import annotations

from typing import Any

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions
from pymesh.control.store.usable import assemble_usable
from pymesh.control.translate import translate
from pymesh.control.translate.backends import UNRESOLVED
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb
from pymesh.testing import Mesh

CART = "outbound|80||cart.shop.svc.cluster.local"
EDGE = Proxy("router", "10.0.0.9", "edge-1", "shop", {"gateway.networking.k8s.io/gateway-name": "edge"})
MESH = """
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.0.0.5
  ports: [{name: http, port: 80}, {name: d, appProtocol: redis, port: 81}, {name: tcp, port: 82}, {name: web, port: 83}]
---
apiVersion: v1
kind: Service
metadata: {name: theirs, namespace: other}
spec: {clusterIP: 10.0.0.6, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: pymesh
  listeners: [{name: http, port: 80, protocol: HTTP}, {name: tcp, port: 9000, protocol: TCP}]
"""
#: What cannot be used: nobody, a port of which it is said that it does not speak HTTP, what no ReferenceGrant lets the
#: route refer to, what is of a kind that is not known.
WRONG = (
    "name: gone, port: 80",
    "name: cart, port: 81",
    "name: theirs, namespace: other, port: 80",
    "name: cart, kind: ServiceImport, group: multicluster.x-k8s.io, port: 80",
)


@pytest.mark.parametrize("wrong", WRONG)
def test_requests_fail_by_the_weight_of_a_backend_that_is_not_there(wrong: str) -> None:
    (route,) = _routes("HTTPRoute", f"backendRefs: [{{name: cart, port: 80, weight: 3}}, {{{wrong}, weight: 1}}]")
    shares = {one.name: one.weight.value for one in route.route.weighted_clusters.clusters}
    assert shares == {CART: 3, UNRESOLVED: 1}
    assert route.route.cluster_not_found_response_code == pb.RouteAction.INTERNAL_SERVER_ERROR


@pytest.mark.parametrize("wrong", WRONG)
def test_all_requests_fail_where_there_is_no_other(wrong: str) -> None:
    (route,) = _routes("HTTPRoute", f"backendRefs: [{{{wrong}}}]")
    assert route.route.cluster == UNRESOLVED
    assert route.route.cluster_not_found_response_code == pb.RouteAction.INTERNAL_SERVER_ERROR


@pytest.mark.parametrize("port", [82, 83])
def test_a_route_says_what_is_spoken_where_no_app_protocol_does(port: int) -> None:
    """What a port is called means nothing to the Gateway API."""
    (route,) = _routes("HTTPRoute", f"backendRefs: [{{name: cart, port: {port}}}]")
    assert route.route.cluster == f"outbound|{port}||cart.shop.svc.cluster.local"


@pytest.mark.parametrize(("port", "cluster"), [(82, UNRESOLVED), (83, "outbound|83||cart.shop.svc.cluster.local")])
def test_calls_need_http2(port: int, cluster: str) -> None:
    """A port that says nothing is spoken to as the client speaks."""
    (route,) = _routes("GRPCRoute", f"backendRefs: [{{name: cart, port: {port}}}]")
    assert route.route.cluster == cluster


NAMELESS = """
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart-1, namespace: shop}
spec: {address: 10.0.0.1, labels: {app: cart}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart-2, namespace: shop}
spec: {address: 10.0.0.2, labels: {app: cart}, serviceAccount: cart}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: pymesh, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cart, port: 80}]}]}
"""


def test_requests_reach_a_port_without_a_name_with_a_sidecar_and_without() -> None:
    with Mesh(NAMELESS) as mesh:
        mesh.service("cart-1", lambda request: "first")
        mesh.service("cart-2", lambda request: "second")
        answers = [mesh.get("http://a.test/", source="edge") for _ in range(20)]
        assert {(one.status, one.text) for one in answers} == {(200, "first"), (200, "second")}


def test_calls_are_told_that_nobody_is_available() -> None:
    (route,) = _routes("GRPCRoute", f"backendRefs: [{{{WRONG[0]}}}]")
    assert route.route.cluster == UNRESOLVED
    assert route.route.cluster_not_found_response_code == pb.RouteAction.SERVICE_UNAVAILABLE, "UNAVAILABLE in gRPC"


def test_a_copy_for_nobody_leaves_the_request_alone() -> None:
    copy = f"filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{{WRONG[0]}}}}}}}]"
    (route,) = _routes("HTTPRoute", f"backendRefs: [{{name: cart, port: 80}}], {copy}")
    assert route.route.cluster == CART
    assert [one.cluster for one in route.route.request_mirror_policies] == [UNRESOLVED]


def test_connections_fail_too() -> None:
    listener = _messages("TCPRoute", f"backendRefs: [{{{WRONG[0]}}}]")[pb.LISTENER]["0.0.0.0_9000"]
    assert UNRESOLVED.encode() in listener.SerializeToString()


def test_there_never_is_a_cluster_of_that_name() -> None:
    assert UNRESOLVED not in _messages("HTTPRoute", f"backendRefs: [{{{WRONG[0]}}}]")[pb.CLUSTER]


def _messages(kind: str, rule: str) -> Any:
    report = Report()
    version = "v1" if kind != "TCPRoute" else "v1alpha2"
    head = f"apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\n"
    text = f"{head}spec: {{parentRefs: [{{name: edge}}], rules: [{{{rule}}}]}}\n"
    # In a cluster each object is a file of its own.
    files = [*MESH.split("---"), text]
    read = [one for number, each in enumerate(files) for one in load_text(f"f{number}", each, report)]
    assert not report.failed
    store, used = assemble_usable(read, MeshOptions(), report, lambda _: None)
    assert len(used) == len(files)
    return translate(store, EDGE).messages


def _routes(kind: str, rule: str) -> list[Any]:
    tables = _messages(kind, rule)[pb.ROUTES]
    return [route for table in tables.values() for host in table.virtual_hosts for route in host.routes]
