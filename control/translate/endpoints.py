"""Endpoints: where the ports of services are served, and what the proxies must know to speak to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymesh.control.resources.locality import LocalityLbSetting
from pymesh.control.store.peers import Peers
from pymesh.control.store.services import Backend, Service
from pymesh.control.store.workloads import NODE_LABEL, SOMEWHERE
from pymesh.control.translate import locality
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.wire import metadata, socket_address, wrapped
from pymesh.control.xds import pb


def assignment(
    name: str,
    service: Service,
    port: int,
    labels: Mapping[str, str],
    proxy: Proxy,
    peers: Peers,
    setting: LocalityLbSetting,
    fails_over: bool,
) -> Any:
    """The endpoints of a port that have all ``labels`` (those of a subset), by priority and locality."""
    chosen = [one for one in service.backends[port] if labels.items() <= one.workload.labels.items()]
    made = pb.message("envoy.config.endpoint.v3.ClusterLoadAssignment")(cluster_name=name)
    if service.on_node:
        # Where nobody tells of nodes, as outside of clusters, there is one.
        node = proxy.labels.get(NODE_LABEL, "")
        chosen = [one for one in chosen if one.workload.labels.get(NODE_LABEL, "") == node]
    for one in locality.groups(_hinted(chosen, proxy), proxy, setting, fails_over):
        group = made.endpoints.add(
            lb_endpoints=[_endpoint(backend, proxy, peers) for backend in one.backends],
            load_balancing_weight=wrapped(one.weight),
            priority=one.priority,
        )
        if one.locality != SOMEWHERE:
            group.locality.region, group.locality.zone = one.locality.region, one.locality.zone
            group.locality.sub_zone = one.locality.sub_zone
        elif locality.applies(setting, fails_over):
            group.locality.SetInParent()  # a weight counts only for a locality that is named
    return made


def _hinted(found: list[Backend], proxy: Proxy) -> list[Backend]:
    """Those that are meant for the proxy's zone. As for Kubernetes, hints hold if every endpoint that gets new
    connections has one, and one of those is for the zone.
    """
    ready = [one for one in found if one.workload.health == "HEALTHY"]
    if not all(one.workload.for_zones for one in ready):
        return found
    zone = proxy.locality.zone
    if not zone or not any(zone in one.workload.for_zones for one in ready):
        return found
    return [one for one in found if zone in one.workload.for_zones or one.workload.health != "HEALTHY"]


def local(name: str, address: str, port: int) -> Any:
    """The application beside the proxy."""
    return pb.message("envoy.config.endpoint.v3.ClusterLoadAssignment")(
        cluster_name=name,
        endpoints=[{"lb_endpoints": [{"endpoint": {"address": socket_address(address, port)}}]}],
    )


def _endpoint(one: Backend, proxy: Proxy, peers: Peers) -> dict[str, Any]:
    workload = one.workload
    filters: dict[str, Mapping[str, Any]] = {}
    if peers.accepts_mutual_tls(one):
        filters["envoy.transport_socket_match"] = {"tlsMode": "istio"}
    labels = workload.labels
    canonical = labels.get("service.istio.io/canonical-name") or labels.get("app") or workload.name
    revision = labels.get("service.istio.io/canonical-revision") or labels.get("version") or "latest"
    identity = ";".join((workload.name, workload.namespace, canonical, revision, proxy.cluster_id))
    filters["istio"] = {"workload": identity}
    return {
        "endpoint": {"address": socket_address(workload.address_for(proxy.is_ipv6), one.port)},
        "health_status": workload.health,
        "metadata": metadata(**filters),
        "load_balancing_weight": wrapped(workload.weight or 1),
    }
