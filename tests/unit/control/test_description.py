"""What is told of a service, a workload and a gateway: each line with the place where it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pymesh.control.description import UnknownError
from pymesh.control.sources.mesh import FileMesh

MESH = """apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: reviews-1, namespace: shop}
spec: {address: 10.0.0.1, labels: {app: reviews, version: v1, security.istio.io/tlsMode: istio}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /new}, method: {exact: GET}}]
    route: [{destination: {host: reviews, subset: v1}}]
  - timeout: 1s
    route: [{destination: {host: reviews}}]
  - name: never
    route: [{destination: {host: reviews}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {simple: RANDOM}}
  subsets:
  - {name: v1, labels: {version: v1}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: lenient, namespace: shop}
spec: {mtls: {mode: PERMISSIVE}}
---
apiVersion: extensions.pymesh.dev/v1alpha1
kind: LocalRateLimit
metadata: {name: limit, namespace: shop}
spec: {selector: {matchLabels: {app: reviews}}, total: {requests: 5, per: 1s}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: edge}
  servers:
  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: [shop.example]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: shop}
spec:
  hosts: [shop.example]
  gateways: [edge]
  http:
  - route: [{destination: {host: reviews, port: {number: 80}}}]
"""


@pytest.fixture
def mesh(tmp_path: Path) -> FileMesh:
    (tmp_path / "shop.yaml").write_text(MESH)
    made = FileMesh([tmp_path])
    assert made.load() == []
    return made


def lines(found: dict[str, Any], heading: str) -> list[str]:
    """Each line with the line of its place."""
    shown = ((one["text"], one["at"]) for one in found["sections"][heading])
    return [text + (f" @{re.sub(r'^.*shop.yaml:', '', at).partition(':')[0]}" if at else "") for text, at in shown]


def test_a_service(mesh: FileMesh) -> None:
    found = mesh.describe("service", "reviews", "shop")
    assert found["title"] == "Service reviews.shop.svc.cluster.local"
    assert lines(found, "Ports") == ["80 -> 9080 http HTTP"]
    assert lines(found, "Routes") == [
        "VirtualService shop/reviews in the mesh rule 0: method GET and path /new* -> reviews v1 @17",
        "VirtualService shop/reviews in the mesh rule 1: every request -> reviews (with timeout) @19",
        "VirtualService shop/reviews in the mesh rule never: every request -> reviews @21",
        "VirtualService shop/edge at gateway edge (shop.example) @56",
    ]
    assert lines(found, "Clients") == ["DestinationRule shop/reviews: loadBalancer @24", "subset v1 (version: v1) @31"]
    assert lines(found, "Endpoints") == ["10.0.0.1:9080 reviews-1 v1 @9"]
    assert lines(found, "Mutual TLS") == ["port 9080 of reviews-1: PERMISSIVE, by PeerAuthentication shop/lenient @38"]
    assert lines(found, "Policies") == ["DENY AuthorizationPolicy shop/guard (1 rule): refuses @33"]
    assert lines(found, "Filters") == ["LocalRateLimit shop/limit @43"]
    (finding,) = found["findings"]
    assert finding["code"] == "IST0130"


def test_a_workload(mesh: FileMesh) -> None:
    found = mesh.describe("workload", "reviews-1", "shop")
    assert found["title"] == "Workload shop/reviews-1"
    assert lines(found, "Serves") == ["reviews.shop.svc.cluster.local:80 on port 9080 @1"]
    assert lines(found, "Policies") == ["DENY AuthorizationPolicy shop/guard (1 rule): refuses @33"]
    assert mesh.describe("workload", "reviews-1.shop", "default")["title"] == found["title"]


def test_a_gateway(mesh: FileMesh) -> None:
    found = mesh.describe("gateway", "edge", "shop")
    assert lines(found, "Servers") == ["8080 HTTP for shop.example @54"]
    assert lines(found, "Routes") == ["VirtualService shop/edge (shop.example) rule 0: every request -> reviews @63"]
    assert lines(found, "Proxies") == ["those with istio: edge"]
    assert "Filters" not in found["sections"]


@pytest.mark.parametrize("kind", ["service", "workload", "gateway"])
def test_what_is_not_there(mesh: FileMesh, kind: str) -> None:
    with pytest.raises(UnknownError, match=r"'nothing'\nhint: "):
        mesh.describe(kind, "nothing", "shop")
