"""Envoy v3 bootstraps as plain dictionaries: the few shapes that tests and benchmarks need.

Everything here is standard Envoy configuration, so the same dictionary runs both proxies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.tools.certificates import KeyPair

Json = dict[str, Any]

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_HCM = f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = f"{_EXTENSIONS}.filters.http.router.v3.Router"
_TCP = f"{_EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy"
_HTTP_OPTIONS = f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"
_TLS = f"{_EXTENSIONS}.transport_sockets.tls.v3"

#: For Envoy: a gRPC request whose time has run out is told so, as by ours. By default it does that not yet.
GRPC_DEADLINES: Json = {
    "layers": [
        {
            "name": "test",
            "static_layer": {"envoy.reloadable_features.grpc_timeout_returns_deadline_exceeded": True},
        }
    ]
}


def bootstrap(listeners: Sequence[Json], clusters: Sequence[Json], admin_port: int) -> Json:
    """A complete static bootstrap."""
    return {
        "node": {"id": "test-proxy", "cluster": "test"},
        "admin": {"address": socket_address(admin_port)},
        "static_resources": {"listeners": list(listeners), "clusters": list(clusters)},
    }


def dynamic(kind: str, server: Json, admin_port: int, *, metadata: Sequence[tuple[str, str]] = ()) -> Json:
    """A bootstrap that leaves everything to an ADS server; `kind` is `GRPC` or `DELTA_GRPC`, `server` its cluster."""
    source = {"ads": {}, "resource_api_version": "V3"}
    service = {
        "envoy_grpc": {"cluster_name": server["name"]},
        "initial_metadata": [{"key": key, "value": value} for key, value in metadata],
    }
    made = bootstrap([], [server], admin_port)
    made["dynamic_resources"] = {
        "lds_config": source,
        "cds_config": source,
        "ads_config": {"api_type": kind, "transport_api_version": "V3", "grpc_services": [service]},
    }
    return made


def socket_address(port: int) -> Json:
    """A loopback address."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def http_listener(
    port: int, virtual_hosts: Sequence[Json], *, name: str = "ingress", tls: Json | None = None, **manager: Any
) -> Json:
    """A listener with the HTTP connection manager; `manager` adds or replaces its fields."""
    chain: Json = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": _HCM,
                    "stat_prefix": name,
                    "route_config": {"name": name, "virtual_hosts": list(virtual_hosts)},
                    "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
                    **manager,
                },
            }
        ]
    }
    if tls:
        chain["transport_socket"] = tls
    return {"name": name, "address": socket_address(port), "filter_chains": [chain]}


def tcp_listener(
    port: int, cluster: str, *, name: str = "tcp", tls: Json | None = None, filters: Sequence[Json] = (), **proxy: Any
) -> Json:
    """A listener that passes bytes to one cluster; `filters` are listener filters, `proxy` adds to the TCP proxy."""
    chain = tcp_chain(cluster, stat_prefix=name, proxy=proxy)
    if tls:
        chain["transport_socket"] = tls
    listener = {"name": name, "address": socket_address(port), "filter_chains": [chain]}
    return {**listener, "listener_filters": list(filters)} if filters else listener


def tcp_chain(cluster: str, *, stat_prefix: str = "tcp", proxy: Json | None = None, **fields: Any) -> Json:
    """A filter chain that passes bytes to one cluster; `proxy` adds to the TCP proxy, `fields` to the chain."""
    config = {"@type": _TCP, "stat_prefix": stat_prefix, **(proxy or {})}
    if "weighted_clusters" not in config:
        config["cluster"] = cluster
    return {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": config}], **fields}


def access_log(file: Path, line: str) -> Json:
    """Lines of this format, appended to a file."""
    config = {"path": str(file), "log_format": {"text_format_source": {"inline_string": line}}}
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {"@type": f"{_EXTENSIONS}.access_loggers.file.v3.FileAccessLog", **config},
    }


def virtual_host(name: str, routes: Sequence[Json], domains: Sequence[str] = ("*",), **fields: Any) -> Json:
    """A virtual host."""
    return {"name": name, "domains": list(domains), "routes": list(routes), **fields}


def to_cluster(cluster: str, prefix: str = "/", **action: Any) -> Json:
    """A route from a path prefix to a cluster; `action` adds fields to the route action."""
    return {"match": {"prefix": prefix}, "route": {"cluster": cluster, **action}}


def cluster(
    name: str,
    ports: Sequence[int],
    *,
    http2: bool = False,
    tls: Json | None = None,
    idle_timeout: str | None = None,
    **fields: Any,
) -> Json:
    """A static cluster on loopback; `idle_timeout` closes pooled connections that nobody uses."""
    endpoints = [{"endpoint": {"address": socket_address(port)}} for port in ports]
    result: Json = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        **fields,
    }
    if http2 or idle_timeout:
        version = "http2_protocol_options" if http2 else "http_protocol_options"
        options: Json = {"@type": _HTTP_OPTIONS, "explicit_http_config": {version: {}}}
        if idle_timeout:
            options["common_http_protocol_options"] = {"idle_timeout": idle_timeout}
        result["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
    if tls:
        result["transport_socket"] = tls
    return result


def downstream_tls(pair: KeyPair, *, client_root: str | None = None, alpn: Sequence[str] = ("h2", "http/1.1")) -> Json:
    """Serve TLS; with `client_root`, demand a client certificate of that authority."""
    context: Json = {"@type": f"{_TLS}.DownstreamTlsContext", "common_tls_context": _common(pair, client_root, alpn)}
    if client_root:
        context["require_client_certificate"] = True
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def upstream_tls(
    root: str,
    sni: str,
    *,
    pair: KeyPair | None = None,
    alpn: Sequence[str] = (),
    sans: Sequence[Json] = (),
) -> Json:
    """Speak TLS to the upstream and verify it; `pair` is our own certificate for mutual TLS."""
    common = _common(pair, root, alpn)
    if sans:
        common["validation_context"]["match_typed_subject_alt_names"] = list(sans)
    context = {"@type": f"{_TLS}.UpstreamTlsContext", "sni": sni, "common_tls_context": common}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _common(pair: KeyPair | None, root: str | None, alpn: Sequence[str]) -> Json:
    common: Json = {}
    if alpn:
        common["alpn_protocols"] = list(alpn)
    if pair:
        chain, key = {"filename": str(pair.chain)}, {"filename": str(pair.key)}
        common["tls_certificates"] = [{"certificate_chain": chain, "private_key": key}]
    if root:
        common["validation_context"] = {"trusted_ca": {"filename": root}}
    return common
