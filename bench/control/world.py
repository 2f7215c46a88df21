"""The mesh that is measured: services with pods behind them, in an API server, and the sidecars of some of the pods."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.kubernetes.cluster import Cluster, Object

_NAMESPACES = 20
_CLIENTS = 8


@dataclass(frozen=True)
class World:
    """How much there is."""

    services: int = 200
    endpoints: int = 10
    sidecars: int = 500

    def fill(self, cluster: Cluster) -> None:
        """Put everything into the API server."""
        cluster.apply(list(self._namespaces()))
        with ThreadPoolExecutor(_CLIENTS) as lanes:
            list(lanes.map(lambda number: self._service(cluster, number), range(self.services)))

    def nodes(self) -> list[Object]:
        """The sidecars: those of the first pods of each service."""
        found = []
        for index in range(self.endpoints):
            for number in range(self.services):
                name, namespace = f"service-{number}", _namespace(number)
                domain = f"{namespace}.svc.cluster.local"
                found.append(
                    {
                        "id": f"sidecar~{address(number, index)}~{name}-{index}.{namespace}~{domain}",
                        "metadata": {
                            "NAMESPACE": namespace,
                            "LABELS": _labels(name),
                            "SERVICE_ACCOUNT": name,
                            "CLUSTER_ID": "Kubernetes",
                            "INTERCEPTION_MODE": "REDIRECT",
                            "ISTIO_VERSION": "1.31.0",
                            "INSTANCE_IPS": address(number, index),
                            "NODE_NAME": f"node-{index}",
                        },
                    }
                )
        return found[: self.sidecars]

    def change(self, cluster: Cluster, number: int, new: str) -> None:
        """Give the last endpoint of a service another address."""
        endpoints = self._endpoints(number)
        endpoints[-1]["addresses"] = [new]
        path = cluster.path("discovery.k8s.io/v1", "EndpointSlice", f"service-{number}-0", _namespace(number))
        cluster.request("PATCH", path, {"endpoints": endpoints}, content_type="application/merge-patch+json")

    def _namespaces(self) -> Iterator[Object]:
        for number in range(_NAMESPACES):
            yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"team-{number}"}}
        for index in range(self.endpoints):
            labels = {"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": f"eu-{index % 3}"}
            yield {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{index}", "labels": labels}}

    def _service(self, cluster: Cluster, number: int) -> None:
        name, namespace = f"service-{number}", _namespace(number)
        spec: dict[str, Any] = {
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        }
        meta = {"name": name, "namespace": namespace}
        slice_of = {"kubernetes.io/service-name": name}
        cluster.apply(
            [
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
                {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec},
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {"name": f"{name}-0", "namespace": namespace, "labels": slice_of},
                    "addressType": "IPv4",
                    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                    "endpoints": self._endpoints(number),
                },
                *(self._pod(number, index) for index in range(self.endpoints)),
            ]
        )
        for index in range(self.endpoints):
            at = address(number, index)
            status = {"phase": "Running", "podIP": at, "podIPs": [{"ip": at}]}
            cluster.status("v1", "Pod", f"{name}-{index}", namespace, status)

    def _endpoints(self, number: int) -> list[Object]:
        return [
            {
                "addresses": [address(number, index)],
                "conditions": {"ready": True},
                "nodeName": f"node-{index}",
                "targetRef": {"kind": "Pod", "name": f"service-{number}-{index}", "namespace": _namespace(number)},
            }
            for index in range(self.endpoints)
        ]

    def _pod(self, number: int, index: int) -> Object:
        name = f"service-{number}"
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{name}-{index}", "namespace": _namespace(number), "labels": _labels(name)},
            "spec": {
                "serviceAccountName": name,
                "nodeName": f"node-{index}",
                "automountServiceAccountToken": False,
                "containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080}]}],
            },
        }


def address(number: int, index: int) -> str:
    """Of a service's pod."""
    return f"10.{1 + index}.{number // 250}.{1 + number % 250}"


def _namespace(number: int) -> str:
    return f"team-{number % _NAMESPACES}"


def _labels(name: str) -> dict[str, str]:
    return {
        "app": name,
        "version": "v1",
        "security.istio.io/tlsMode": "istio",
        "service.istio.io/canonical-name": name,
        "service.istio.io/canonical-revision": "v1",
    }
