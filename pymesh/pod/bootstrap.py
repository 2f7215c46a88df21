"""The Envoy v3 bootstrap of a pod's proxy, and the parts that every proxy's bootstrap has.

Beside what the control plane will say there are two listeners from the start: the proxy's readiness, for the kubelet,
and its metrics, for Prometheus. The admin pages are on loopback.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymesh.control.identity.names import ROOTS
from pymesh.pod.environment import ADMIN_PORT, METRICS_PORT, READY_PORT, Pod

Json = dict[str, Any]

XDS_CLUSTER = "xds-grpc"
_ADMIN_CLUSTER = "prometheus_stats"

_TYPE = "type.googleapis.com/"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HTTP = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"


@dataclass(frozen=True, slots=True)
class ControlAddress:
    """How a proxy reaches the control plane and whom it trusts there at first."""

    port: int
    root: Path
    host: str = "127.0.0.1"
    #: What its certificate has to be good for.
    server_name: str = "localhost"


def for_pod(pod: Pod, control: ControlAddress, token: Path, trust_domain: str) -> Json:
    """The bootstrap of our proxy in a pod."""
    everywhere = "::" if pod.is_ipv6 else "0.0.0.0"
    spiffe_id = f"spiffe://{trust_domain}/ns/{pod.namespace}/sa/{pod.service_account}"
    app = pod.labels.get("app") or pod.labels.get("service.istio.io/canonical-name") or pod.name
    return {
        "node": {
            "id": pod.node_id,
            "cluster": f"{app}.{pod.namespace}",
            "metadata": {
                **pod.metadata,
                "NAME": pod.name,
                "NAMESPACE": pod.namespace,
                "SERVICE_ACCOUNT": pod.service_account,
                "INSTANCE_IPS": pod.address,
                "ENVOY_PROMETHEUS_PORT": METRICS_PORT,
                "LABELS": dict(pod.labels),
            },
        },
        "admin": {"address": _address("127.0.0.1", ADMIN_PORT)},
        "dynamic_resources": discovery(grpc(XDS_CLUSTER)),
        "static_resources": {
            "listeners": [
                _forwarding("ready", _address(everywhere, READY_PORT), "/healthz/ready", "/ready"),
                _forwarding("metrics", _address(everywhere, METRICS_PORT), "/stats/prometheus", "/stats/prometheus"),
            ],
            "clusters": [
                xds_cluster(control, {"name": ROOTS}),
                {
                    "name": _ADMIN_CLUSTER,
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "load_assignment": assignment(_ADMIN_CLUSTER, _address("127.0.0.1", ADMIN_PORT)),
                },
            ],
            "secrets": [first_roots(control.root)],
        },
        "bootstrap_extensions": [identity(spiffe_id, token)],
    }


def identity(spiffe_id: str, token: Path) -> Json:
    """Ours: who the proxy is, and what it proves it with."""
    typed = {
        "@type": f"{_TYPE}pymesh.identity.v1.WorkloadIdentity",
        "ca_cluster": XDS_CLUSTER,
        "spiffe_id": spiffe_id,
        "token_path": str(token),
    }
    return {"name": "pymesh.identity", "typed_config": typed}


def first_roots(file: Path) -> Json:
    """The roots that are trusted until the control plane says which."""
    return {"name": ROOTS, "validation_context": {"trusted_ca": {"filename": str(file)}}}


def discovery(service: Json) -> Json:
    """`dynamic_resources`: everything by delta ADS."""
    source = {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {"ads_config": source, "lds_config": ads, "cds_config": ads}


def grpc(cluster: str) -> Json:
    """A gRPC service by its cluster."""
    return {"envoy_grpc": {"cluster_name": cluster}}


def xds_cluster(control: ControlAddress, roots: Json) -> Json:
    """The control plane, by mutual trust; ``roots`` says where those come from that it is judged by."""
    name = control.server_name
    context = {
        "@type": f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": name,
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "combined_validation_context": {
                "default_validation_context": {
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": name}}],
                },
                "validation_context_sds_secret_config": roots,
            },
        },
    }
    return {
        **grpc_cluster(XDS_CLUSTER, _address(control.host, control.port), is_name=not _is_ip(control.host)),
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
    }


def grpc_cluster(name: str, address: Json, *, is_name: bool = False) -> Json:
    """A cluster of one endpoint that speaks HTTP/2."""
    options = {"@type": _TYPE + _HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}}}
    return {
        "name": name,
        "type": "STRICT_DNS" if is_name else "STATIC",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {_HTTP_OPTIONS: options},
        "load_assignment": assignment(name, address),
    }


def assignment(name: str, address: Json) -> Json:
    """Of a cluster of one endpoint."""
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def _forwarding(name: str, address: Json, path: str, to: str) -> Json:
    """A listener that gives out one of the admin pages."""
    route = {"match": {"path": path}, "route": {"cluster": _ADMIN_CLUSTER, "prefix_rewrite": to}}
    manager = {
        "@type": _TYPE + _HTTP,
        "stat_prefix": name,
        "route_config": {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _TYPE + _ROUTER}}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "address": address, "filter_chains": [chain]}


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
