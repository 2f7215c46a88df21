"""The parts that listeners are made of: connection managers and TCP proxies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import Any, Literal

from pymesh.control.resources.destination import TcpPool
from pymesh.control.translate import access_logs, clusters, http_filters, stats, sticky, tracing
from pymesh.control.translate.l4 import L4Rule
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.telemetry import ListenerSide
from pymesh.control.translate.wire import ADS, extension, seconds, socket_address, wrapped
from pymesh.control.xds import pb

_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


#: What the HTTP inspector calls that which a connection manager takes. HTTP/1.0 is passed on, as with Istio.
SNIFFED_HTTP = ("http/1.1", "h2c")


def http(
    scope: Scope,
    stat_prefix: str,
    side: ListenerSide,
    routes: Any,
    filters: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """A connection manager. ``routes`` is a RouteConfiguration, or the name of one to discover."""
    router = extension("envoy.filters.http.router", pb.Router())
    built_in = http_filters.switched_off() if side != "inbound" else []
    manager = pb.message(_MANAGER)(
        codec_type="AUTO",
        stat_prefix=stat_prefix,
        http_filters=[*filters, *built_in, *stats.made(scope, side), router],
        access_log=access_logs.made(scope, side),
        server_name="istio-envoy",
        # A sidecar takes its app's word for who asks, as Istio's does: ids and addresses that an app passes on stay.
        use_remote_address=wrapped(side == "gateway"),
        generate_request_id=wrapped(True),
        normalize_path=wrapped(True),
        merge_slashes=True,
        # What one side reads as a separator and the other as text is the stuff of access bypasses.
        path_with_escaped_slashes_action="UNESCAPE_AND_REDIRECT" if side == "gateway" else "REJECT_REQUEST",
        # "api.shop.svc.cluster.local." is the same host, to routes as to policies.
        strip_trailing_host_dot=True,
        upgrade_configs=[{"upgrade_type": "websocket"}],
        # Whether a body is wanted is the application's to say.
        proxy_100_continue=True,
        stream_idle_timeout={"seconds": 300},
        **tracing.made(scope, side),
    )
    if side == "inbound":
        manager.forward_client_cert_details = manager.APPEND_FORWARD
        manager.set_current_client_cert_details.subject.value = True
        manager.set_current_client_cert_details.dns = True
        manager.set_current_client_cert_details.uri = True
    elif side == "gateway":
        manager.forward_client_cert_details = manager.SANITIZE_SET
        manager.set_current_client_cert_details.subject.value = True
        manager.set_current_client_cert_details.dns = True
        manager.set_current_client_cert_details.uri = True
    if isinstance(routes, str):
        manager.rds.route_config_name = routes
        manager.rds.config_source.CopyFrom(pb.message("envoy.config.core.v3.ConfigSource")(**ADS))
    else:
        manager.route_config.CopyFrom(routes)
    return extension("envoy.filters.network.http_connection_manager", manager)


def tcp(
    scope: Scope,
    stat_prefix: str,
    side: ListenerSide,
    shares: Sequence[tuple[str, int]],
    limits: TcpPool | None = None,
    *,
    hash_address: bool = False,
) -> list[dict[str, Any]]:
    """A TCP proxy to clusters by weight, and what counts; with ``hash_address`` a client stays at the same endpoint."""
    proxy = pb.message("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy")(
        stat_prefix=stat_prefix, access_log=access_logs.made(scope, side)
    )
    if len(shares) == 1:
        proxy.cluster = shares[0][0]
    else:
        for cluster, weight in shares:
            proxy.weighted_clusters.clusters.add(name=cluster, weight=weight)
    if limits is not None and limits.idle_timeout is not None:
        proxy.idle_timeout.CopyFrom(pb.message("google.protobuf.Duration")(**seconds(limits.idle_timeout)))
    if limits is not None and limits.max_connection_duration is not None:
        age = pb.message("google.protobuf.Duration")(**seconds(limits.max_connection_duration))
        proxy.max_downstream_connection_duration.CopyFrom(age)
    if hash_address:
        proxy.hash_policy.add(source_ip={})
    return [*stats.made(scope, side), extension("envoy.filters.network.tcp_proxy", proxy)]


def l4(scope: Scope, rules: Iterable[L4Rule], *, tls: bool = False) -> list[dict[str, Any]]:
    """Chains for connections, told apart by server name (``tls``) and destination. The first rule for both has it."""
    chains: list[dict[str, Any]] = []
    taken: set[tuple[str, str]] = set()
    side: ListenerSide = "gateway" if scope.proxy.kind == "router" else "outbound"
    for rule in rules:
        first = rule.shares[0][0]
        hash_address = sticky.hash_address(scope, [cluster for cluster, _ in rule.shares])
        limits = clusters.tcp_limits(scope, first)
        network = tcp(scope, first, side, rule.shares, limits, hash_address=hash_address)
        by_subnets: dict[tuple[str, ...], list[str]] = {}
        for name in dict.fromkeys(rule.server_names or ("*",)):
            subnets = [str(ip_network(one, strict=False)) for one in rule.subnets] or [""]
            free = tuple(one for one in dict.fromkeys(subnets) if (name, one) not in taken)
            taken.update((name, one) for one in free)
            if free:
                by_subnets.setdefault(free, []).append(name)
        for subnets_of, names in by_subnets.items():
            match: dict[str, Any] = {"transport_protocol": "tls"} if tls else {}
            if subnets_of != ("",):
                match["prefix_ranges"] = [_range(one) for one in subnets_of]
            named = [name for name in names if name != "*"]
            if named:
                chains.append({"filter_chain_match": {**match, "server_names": named}, "filters": network})
            if "*" in names:
                chains.append({"filter_chain_match": match, "filters": network} if match else {"filters": network})
    return chains


def _range(subnet: str) -> dict[str, Any]:
    address, _, length = subnet.partition("/")
    return {"address_prefix": address, "prefix_len": wrapped(int(length))}


def listener(
    name: str,
    address: str,
    port: int,
    direction: Literal["INBOUND", "OUTBOUND"],
    chains: Sequence[dict[str, Any]],
) -> Any:
    """A listener. A chain that asks for TLS, or for what a client says in it, needs the TLS inspector; one for HTTP
    that is to be seen needs the HTTP inspector.

    Who waits for the server to speak first may come into a workload, and to a port of which it is not known what is
    spoken there: after a second without a word it is plain text, and no HTTP.
    """
    made = pb.Listener(
        name=name,
        address=socket_address(address, port),
        traffic_direction=direction,
        filter_chains=chains,
        per_connection_buffer_limit_bytes=wrapped(1024 * 1024),
    )
    matches = [chain.filter_chain_match for chain in made.filter_chains]
    wanted = {protocol for match in matches for protocol in match.application_protocols}
    sniffs = not wanted.isdisjoint(SNIFFED_HTTP)
    by_tls = any(match.server_names or match.transport_protocol for match in matches) or wanted - {*SNIFFED_HTTP}
    if by_tls:
        inspector = pb.message("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector")()
        made.listener_filters.add(**extension("envoy.filters.listener.tls_inspector", inspector))
    if sniffs:
        looker = pb.message("envoy.extensions.filters.listener.http_inspector.v3.HttpInspector")()
        made.listener_filters.add(**extension("envoy.filters.listener.http_inspector", looker))
    if sniffs or (by_tls and direction == "INBOUND"):
        made.listener_filters_timeout.CopyFrom(pb.message("google.protobuf.Duration")(seconds=1))
        made.continue_on_listener_filters_timeout = True
    return made
