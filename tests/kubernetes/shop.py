"""The shop in a cluster: `pymesh install`, the manifests of `examples/shop`, and what is asked of it."""

from __future__ import annotations

import http.client
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymesh.control.install.objects import objects
from pymesh.control.install.values import NAMESPACE, Values
from tests.kubernetes.api import Object
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.kubelet.node import Node, node
from tests.kubernetes.kubelet.pod import Image, Pod

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "shop"
IMAGE = "pymesh"
#: The environment that the tests run in is the image's, also below a volume that is mounted over a part of its path.
_ENVIRONMENT = Path(sys.prefix)
_PATH = {"PATH": f"{_ENVIRONMENT}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONDONTWRITEBYTECODE": "1"}
IMAGES = {
    IMAGE: Image(("pymesh",), {str(_ENVIRONMENT): _ENVIRONMENT}, _PATH),
    "pymesh-shop": Image(files={"/shop": EXAMPLE}, env=_PATH),
}
_CONFIGURATION = ("services", "catalog", "reviews", "ratings")


@dataclass(frozen=True)
class Answer:
    """Of a request."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass
class Traffic:
    """What became of many requests."""

    answered: int = 0
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Shop:
    """See the module."""

    cluster: Cluster
    node: Node

    def get(self, path: str = "/products/1", headers: Mapping[str, str] | None = None, timeout: float = 30) -> Answer:
        """What a client outside of the mesh is told at the ingress gateway."""
        service = self.cluster.get("v1", "Service", "istio-ingressgateway", NAMESPACE)
        assert service is not None
        return self.ask(service["spec"]["clusterIP"], 80, path, headers, timeout)

    def ask(
        self, address: str, port: int, path: str, headers: Mapping[str, str] | None = None, timeout: float = 30
    ) -> Answer:
        """A request from the node, which is in no mesh. Raises OSError or HTTPException."""
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
        connection.sock = self.node.network.from_node(address, port, timeout)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return Answer(answer.status, dict(answer.headers), json.loads(body) if is_json else body.decode())

    @contextmanager
    def traffic(self) -> Iterator[Traffic]:
        """Requests at the ingress gateway, one after the other, for the length of a block."""
        service = self.cluster.get("v1", "Service", "istio-ingressgateway", NAMESPACE)
        assert service is not None
        address, made, over = service["spec"]["clusterIP"], Traffic(), threading.Event()

        def ask() -> None:
            while not over.is_set():
                try:
                    answer = self.ask(address, 80, "/products/1")
                except (OSError, http.client.HTTPException) as error:
                    made.lost.append(repr(error))
                else:
                    made.answered += answer.status == 200
                    made.lost += [f"{answer.status} {answer.body}"] if answer.status != 200 else []

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            over.set()
            thread.join()

    def serves(self, path: str = "/products/1") -> bool:
        """Whether a request is answered as it should be."""
        try:
            return self.get(path).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def versions(self, requests: int) -> dict[str, int]:
        """Which versions of the reviews have answered so many requests."""
        found: dict[str, int] = {}
        for _ in range(requests):
            answer = self.get()
            assert answer.status == 200, answer
            version = answer.body["reviews"]["version"]
            found[version] = found.get(version, 0) + 1
        return found

    def apply(self, text: str) -> None:
        """Resources of the shop."""
        self.cluster.apply(text)

    def pod(self, app: str, **labels: str) -> Pod:
        """A pod of an application."""
        return self.node.all("shop", app=app, **labels)[0]

    def requests_total(self, pod: Pod, **labels: str) -> int:
        """What a sidecar has counted as ``istio_requests_total`` with these labels."""
        text = str(self.ask(pod.address, 15090, "/stats/prometheus").body)
        total = 0.0
        for line in text.splitlines():
            match = re.fullmatch(r"istio_requests_total\{(.*)\} (\S+)", line)
            if match and all(f'{name}="{value}"' in match[1] for name, value in labels.items()):
                total += float(match[2])
        return int(total)


@contextmanager
def shop(cluster: Cluster, certificate_lifetime: str = "24h", **values: Any) -> Iterator[Shop]:
    """The mesh and the shop in it, all pods ready; gone afterwards."""
    with ExitStack() as stack:
        stack.enter_context(_without_remains(cluster))
        stack.enter_context(cluster.namespace(NAMESPACE))
        stack.enter_context(cluster.namespace("shop", {"istio-injection": "enabled"}))
        made = Shop(cluster, stack.enter_context(node(cluster, IMAGES)))
        cluster.apply(
            list(
                _installed(made, certificate_lifetime, Values(image=IMAGE, gateway_service_type="ClusterIP", **values))
            )
        )
        made.node.wait_ready(NAMESPACE)
        for file in ("kubernetes/shop", *(f"config/{one}" for one in _CONFIGURATION), "kubernetes/ingress"):
            cluster.apply((EXAMPLE / f"{file}.yaml").read_text())
        made.node.wait_ready("shop")
        # Endpoints arrive at each sidecar when they do: one in five asks for the reviews that need the ratings.
        made.node.wait("the shop serves", lambda: all(made.serves() for _ in range(30)))
        yield made


def _installed(shop: Shop, certificate_lifetime: str, values: Values) -> Iterator[Object]:
    """What `pymesh install` applies; only that this API server is outside of the network of Services, and that
    certificates may live for less than a test.
    """
    address = f"pymesh-control.{values.namespace}.svc.cluster.local"

    def connect() -> Any:
        return shop.node.network.from_node(shop.node.network.names[address][0], 443, 10)

    port = shop.node.network.from_host(connect)
    for one in objects(values):
        for webhook in one.get("webhooks", ()):
            service = webhook["clientConfig"].pop("service")
            webhook["clientConfig"]["url"] = f"https://127.0.0.1:{port}{service['path']}"
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", "pymesh-control"):
            (container,) = one["spec"]["template"]["spec"]["containers"]
            container["args"] += ["--certificate-lifetime", certificate_lifetime]
        yield one


@contextmanager
def _without_remains(cluster: Cluster) -> Iterator[None]:
    """What is in no namespace goes too, the webhooks first: nobody answers them any more."""
    try:
        yield
    finally:
        made = objects(Values(image=IMAGE))
        for one in sorted(made, key=lambda one: "Webhook" not in one["kind"]):
            if "namespace" not in one["metadata"] and one["kind"] not in ("Namespace", "CustomResourceDefinition"):
                cluster.delete(one["apiVersion"], one["kind"], one["metadata"]["name"])
