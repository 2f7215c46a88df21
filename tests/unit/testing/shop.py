"""A mesh of three services, each with a proxy, behind a gateway: web asks reviews, and reviews asks ratings."""

from __future__ import annotations

import json

from pymesh.testing import Incoming, Mesh


def _service(name: str, address: str) -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 9080}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}-1, namespace: shop}}
spec:
  address: {address}
  serviceAccount: {name}
  labels: {{app: {name}, security.istio.io/tlsMode: istio}}
---
"""


_EDGE = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: edge}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""

ADDRESSES = {"web": "10.0.0.1", "reviews": "10.0.0.2", "ratings": "10.0.0.3"}
RESOURCES = "".join(_service(name, address) for name, address in ADDRESSES.items()) + _EDGE


def route(service: str, attempts: int, timeout: str, gateway: str = "mesh") -> str:
    """Whoever asks a service, through sidecars or by the gateway, tries again so often."""
    return f"""\
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}, namespace: shop}}
spec:
  hosts: ["{"*" if gateway != "mesh" else service}"]
  gateways: [{gateway}]
  http:
    - retries: {{attempts: {attempts}, perTryTimeout: {timeout}, retryOn: "5xx,reset,connect-failure"}}
      route: [{{destination: {{host: {service}, port: {{number: 9080}}}}}}]
"""


#: Retries at the gateway alone.
AT_THE_EDGE = route("web", 2, "4s", gateway="edge")
#: The same at each of the three hops, and no budget: each multiplies what those before it have multiplied.
EVERYWHERE = AT_THE_EDGE + route("reviews", 2, "2s") + route("ratings", 2, "1s")


async def web(request: Incoming) -> object:
    answer = await request.get("http://reviews:9080/reviews")
    return {"reviews": json.loads(answer.body)} if answer.status == 200 else answer.status


async def reviews(request: Incoming) -> object:
    await request.sleep(0.002)
    answer = await request.get("http://ratings:9080/ratings")
    return {"ratings": json.loads(answer.body)} if answer.status == 200 else answer.status


def ratings(_: Incoming) -> object:
    return {"stars": 5}


def shop(routes: str = AT_THE_EDGE, *, seed: int = 0) -> Mesh:
    """It, with these routes."""
    mesh = Mesh(RESOURCES + routes, seed=seed)
    mesh.service("web", web)
    mesh.service("reviews", reviews)
    mesh.service("ratings", ratings)
    return mesh
