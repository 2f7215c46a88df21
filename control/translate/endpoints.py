"""Endpoints: where the ports of services are served, and what the proxies must know to speak to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymesh.control.store.services import Backend, Service
from pymesh.control.translate.wire import metadata, socket_address, wrapped
from pymesh.control.xds import pb


def assignment(name: str, service: Service, port: int, labels: Mapping[str, str], cluster_id: str) -> Any:
    """The endpoints of a port that have all ``labels`` (those of a subset)."""
    chosen = [one for one in service.backends[port] if labels.items() <= one.workload.labels.items()]
    made = pb.message("envoy.config.endpoint.v3.ClusterLoadAssignment")(cluster_name=name)
    if chosen:
        made.endpoints.add(
            lb_endpoints=[_endpoint(one, cluster_id) for one in chosen],
            load_balancing_weight=wrapped(sum(one.workload.weight or 1 for one in chosen)),
        )
    return made


def local(name: str, address: str, port: int) -> Any:
    """The application beside the proxy."""
    return pb.message("envoy.config.endpoint.v3.ClusterLoadAssignment")(
        cluster_name=name,
        endpoints=[{"lb_endpoints": [{"endpoint": {"address": socket_address(address, port)}}]}],
    )


def _endpoint(one: Backend, cluster_id: str) -> dict[str, Any]:
    workload = one.workload
    filters: dict[str, Mapping[str, Any]] = {}
    if workload.in_mesh:
        filters["envoy.transport_socket_match"] = {"tlsMode": "istio"}
    labels = workload.labels
    canonical = labels.get("service.istio.io/canonical-name") or labels.get("app") or workload.name
    revision = labels.get("service.istio.io/canonical-revision") or labels.get("version") or "latest"
    identity = ";".join((workload.name, workload.namespace, canonical, revision, cluster_id))
    filters["istio"] = {"workload": identity}
    return {
        "endpoint": {"address": socket_address(workload.address, one.port)},
        "health_status": "HEALTHY",
        "metadata": metadata(**filters),
        "load_balancing_weight": wrapped(workload.weight or 1),
    }
