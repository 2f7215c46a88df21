"""From the text of a refusal to the line that the user wrote."""

from __future__ import annotations

from pathlib import Path

from pymesh.control.admin.rejections import traced
from pymesh.control.sources.mesh import FileMesh
from pymesh.control.xds import pb
from pymesh.control.xds.cache import ResourceCache
from pymesh.control.xds.node import Node

MESH = """apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.0.0.9, selector: {app: reviews}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {exact: /first}}]
    route: [{destination: {host: reviews}}]
  - name: second
    route: [{destination: {host: reviews}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec:
  rules:
  - to: [{operation: {methods: [GET]}}]
  - to: [{operation: {methods: [PUT]}}]
"""
NODE = Node(
    "sidecar~10.0.0.1~reviews-1.shop~shop.svc.cluster.local",
    "",
    {"INTERCEPTION_MODE": "REDIRECT", "LABELS": {"app": "reviews"}},
    ("", "", ""),
    "",
    None,
)
GUARD = (
    "filter_chains[1].filters[0].typed_config.http_filters[0].typed_config.rules.policies"
    '["ns[shop]-policy[guard]-rule[1]"].permissions[0]'
)


def test_the_line_that_a_problem_comes_from(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(MESH)
    mesh = FileMesh([tmp_path])
    assert mesh.load() == []
    snapshot = ResourceCache().snapshot(mesh.messages(NODE))
    trace = mesh.origins(NODE)
    for kind, text, resource, place in (
        (pb.ROUTES, "80: virtual_hosts[0].routes[0].match: no", "80", "VirtualService 12:5"),
        (pb.ROUTES, "80: virtual_hosts[0].routes[1].match: no", "80", "VirtualService 14:5"),
        # A path that leads nowhere (any more): the closest that is known.
        (pb.ROUTES, "80: virtual_hosts[0].routes[9].match: no", "80", "Service 1:1"),
        (pb.ROUTES, "80: virtual_hosts[7]: no", "80", "VirtualService 12:5"),
        (pb.LISTENER, f"virtualInbound: {GUARD}: no", "virtualInbound", "AuthorizationPolicy 23:5"),
        (pb.CLUSTER, "outbound|80||reviews.shop.svc.cluster.local: connect_timeout: no",
         "outbound|80||reviews.shop.svc.cluster.local", "Service 1:1"),
        # Envoy's words.
        (pb.LISTENER, "Error adding/updating listener(s) 0.0.0.0_80: no such thing", "0.0.0.0_80", "Service 1:1"),
        (pb.CLUSTER, "the stream was broken", "", None),
    ):  # fmt: skip
        (found,) = traced(snapshot[kind], text, trace)
        assert found["resource"] == resource, text
        shown = [f"{one['kind']} {one['at'].partition('shop.yaml:')[2]}" for one in found["objects"]]
        assert shown[:1] == ([place] if place else []), (text, found)


def test_each_line_is_a_problem_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(MESH)
    mesh = FileMesh([tmp_path])
    mesh.load()
    snapshot = ResourceCache().snapshot(mesh.messages(NODE))
    found = traced(snapshot[pb.ROUTES], "80: virtual_hosts[0]: one\n80: two", mesh.origins(NODE))
    assert [one["problem"] for one in found] == ["virtual_hosts[0]: one", "two"]
    assert traced(None, "something", mesh.origins(NODE)) == [{"resource": "", "problem": "something", "objects": []}]
