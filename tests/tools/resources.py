"""Dynamic resources for tests, as messages: a listener, its routes, their clusters, the endpoints of those."""

from __future__ import annotations

from typing import Any

from pymesh.control.xds import pb
from tests.tools.certificates import KeyPair

_ADS = {"ads": {}, "resource_api_version": "V3"}
_FILTERS = f"{pb.TYPE_PREFIX}envoy.extensions.filters"
_TLS = f"{pb.TYPE_PREFIX}envoy.extensions.transport_sockets.tls.v3"


def cluster(name: str, *, service: str = "", **fields: Any) -> Any:
    """A cluster found by EDS, under another name if `service` is given."""
    eds = {"eds_config": _ADS, "service_name": service}
    made = {"name": name, "type": "EDS", "connect_timeout": "2s", "eds_cluster_config": eds, **fields}
    return pb.from_json("envoy.config.cluster.v3.Cluster", made)


def endpoints(name: str, *ports: int, address: str = "127.0.0.1") -> Any:
    """Where a cluster's instances are."""
    members = [
        {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}} for port in ports
    ]
    made = {"cluster_name": name, "endpoints": [{"lb_endpoints": members}]}
    return pb.from_json("envoy.config.endpoint.v3.ClusterLoadAssignment", made)


def listener(name: str, port: int, routes: str, *, secret: str = "", roots: str = "") -> Any:
    """An HTTP listener with routes from RDS; TLS with a certificate from SDS (`secret`), mutual with `roots`."""
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "rds": {"route_config_name": routes, "config_source": _ADS},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"}}],
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if secret:
        context = {"@type": f"{_TLS}.DownstreamTlsContext", "common_tls_context": _common(secret, roots)}
        context["require_client_certificate"] = bool(roots)
        chain["transport_socket"] = {"name": "tls", "typed_config": context}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    made = {"name": name, "address": address, "filter_chains": [chain]}
    return pb.from_json("envoy.config.listener.v3.Listener", made)


def routes(name: str, to: str, **match: Any) -> Any:
    """A table whose only route leads to a cluster."""
    route = {"match": match or {"prefix": "/"}, "route": {"cluster": to}}
    made = {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}
    return pb.from_json("envoy.config.route.v3.RouteConfiguration", made)


def mutual_tls(secret: str, roots: str, identity: str) -> dict[str, Any]:
    """A cluster's `transport_socket`: our certificate, and exactly this SPIFFE identity accepted."""
    common = _common(secret, roots)
    names = [{"san_type": "URI", "matcher": {"exact": identity}}]
    common["combined_validation_context"]["default_validation_context"] = {"match_typed_subject_alt_names": names}
    return {"name": "tls", "typed_config": {"@type": f"{_TLS}.UpstreamTlsContext", "common_tls_context": common}}


def secret(name: str, pair: KeyPair) -> Any:
    """A certificate with its key."""
    made = {
        "certificate_chain": {"inline_string": pair.chain.read_text()},
        "private_key": {"inline_string": pair.key.read_text()},
    }
    return pb.from_json("envoy.extensions.transport_sockets.tls.v3.Secret", {"name": name, "tls_certificate": made})


def _common(secret: str, roots: str) -> dict[str, Any]:
    common: dict[str, Any] = {"tls_certificate_sds_secret_configs": [{"name": secret, "sds_config": _ADS}]}
    if roots:
        source = {"validation_context_sds_secret_config": {"name": roots, "sds_config": _ADS}}
        common["combined_validation_context"] = {"default_validation_context": {}, **source}
    return common
