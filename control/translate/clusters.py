"""Clusters: one for each port and subset of a service that a proxy can reach, and one for its application."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pymesh.control.resources.consistent_hash import ConsistentHash
from pymesh.control.resources.destination import (
    ClientTls,
    ConnectionPool,
    DestinationRule,
    LoadBalancer,
    PortPolicy,
    RetryBudget,
    Subset,
    TcpPool,
    TrafficPolicy,
)
from pymesh.control.store.health_checks import health_check
from pymesh.control.store.services import Port, Service
from pymesh.control.store.store import Store
from pymesh.control.translate import endpoints, locality, names, origination, tls
from pymesh.control.translate.balancing import set_policy
from pymesh.control.translate.health_check import set_health_check
from pymesh.control.translate.outlier import set_outlier_detection
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.wire import ADS, metadata, seconds, struct, wrapped
from pymesh.control.xds import pb

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
#: `SOL_SOCKET` and `SO_MARK` of Linux.
_SO_MARK = (1, 36)
#: Istio's: limits are for the application's operator to set.
_NO_LIMIT = 2**32 - 1


def outbound(
    store: Store, proxy: Proxy, service: Service, port: Port, rule: DestinationRule | None
) -> tuple[list[Any], list[Any]]:
    """The clusters for a port of a service, as the proxy's rule about it says, and the endpoints of those that discover
    them.
    """
    subsets: list[Subset | None] = [None, *(rule.spec.subsets if rule else ())]
    general = rule.spec.traffic_policy if rule else None
    clusters: list[Any] = []
    assignments = []
    forms = (False, True) if port.is_sniffed else (not port.is_http,)
    for subset in subsets:
        named = {names.outbound(service, port, subset.name if subset else "", tcp=tcp): tcp for tcp in forms}
        labels = subset.labels if subset else {}
        policies = [subset.traffic_policy if subset else None, general]
        if origination.is_lacking(store, proxy, _effective(policies, port.number)[2]):
            clusters += map(black_hole, named)
            continue
        written = _effective(policies, port.number)[0].locality_lb_setting
        notices = any(one.outlier_detection for one in _layers(policies, port.number))
        setting, fails_over = locality.setting_for(written, service, notices)
        # Where a subset has two clusters, these are the endpoints of both.
        first = next(iter(named))
        found = endpoints.assignment(first, service, port.number, labels, proxy, store.peers, setting, fails_over)
        discovery = _discovery(service, proxy, found)
        for name, tcp in named.items():
            cluster = _cluster(store, proxy, service, port, name, policies, discovery, tcp)
            if discovery != "ORIGINAL_DST" and locality.applies(setting, fails_over):
                cluster.common_lb_config.locality_weighted_lb_config.SetInParent()
            if discovery == "EDS":
                cluster.eds_cluster_config.service_name = first
            elif discovery != "ORIGINAL_DST":
                cluster.load_assignment.CopyFrom(found)
            if subset is not None:
                cluster.metadata.filter_metadata["istio"].update({"subset": subset.name})
            clusters.append(cluster)
        if discovery == "EDS":
            assignments.append(found)
    return clusters, assignments


def inbound(port: int, address: str, app_port: int, http2: bool, service: Service | None, http: bool) -> Any:
    """The cluster of the proxy's own application."""
    name = names.inbound(port)
    cluster = pb.Cluster(
        name=name,
        type="STATIC",
        connect_timeout={"seconds": 10},
        load_assignment=endpoints.local(name, address, app_port),
        circuit_breakers=_breakers(ConnectionPool()),
    )
    if service is not None:
        cluster.metadata.CopyFrom(pb.message("envoy.config.core.v3.Metadata")(**_istio(service)))
    if http:
        _set_http(cluster, ConnectionPool(), http2)
    return cluster


def captured(number: int, source: str, service: Service, port: Port) -> Any:
    """The proxy's own application behind its port ``number``, at the address that the client wanted."""
    cluster = passthrough(names.inbound(number), source)
    cluster.metadata.CopyFrom(pb.message("envoy.config.core.v3.Metadata")(**_istio(service)))
    if port.is_http or port.is_sniffed:
        _set_http(cluster, ConnectionPool(), port.is_http2, port.is_sniffed)
    return cluster


def passthrough(name: str, source: str | None = None) -> Any:
    """Where the client wanted to go; from the address ``source``, by which the kernel's rules know the last leg."""
    cluster = pb.Cluster(
        name=name,
        type="ORIGINAL_DST",
        lb_policy="CLUSTER_PROVIDED",
        connect_timeout={"seconds": 10},
        circuit_breakers=_breakers(ConnectionPool()),
    )
    if source is not None:
        cluster.upstream_bind_config.source_address.address = source
        cluster.upstream_bind_config.source_address.port_value = 0
        return cluster
    options = pb.message(_HTTP_OPTIONS)()
    options.use_downstream_protocol_config.http_protocol_options.SetInParent()
    options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pb.pack(options))
    return cluster


def tcp_limits(scope: Scope, name: str) -> TcpPool | None:
    """How long connections to an outbound cluster may be idle, and last: where TCP is spoken, a listener sees to it."""
    direction, port, subset, host = name.split("|")
    service = scope.store.services.get(host)
    rule = scope.store.destination_rule(service, scope.proxy.namespace) if service else None
    if not direction.startswith("outbound") or rule is None:
        return None
    own = [one.traffic_policy for one in rule.spec.subsets if one.name == subset]
    return _effective([*own, rule.spec.traffic_policy], int(port))[1].tcp


def black_hole(name: str) -> Any:
    """Nowhere."""
    return pb.Cluster(name=name, type="STATIC", connect_timeout={"seconds": 10})


def mark(cluster: Any, value: int) -> None:
    """Mark its connections, for the kernel's rules."""
    option = cluster.upstream_bind_config.socket_options.add()
    option.description = "SO_MARK"
    option.level, option.name = _SO_MARK
    option.int_value = value


def key_server(name: str, proxy: Proxy, found: Any, secured: dict[str, Any]) -> Any:
    """A server of keys at these endpoints, over TLS."""
    cluster = pb.Cluster(
        name=name,
        type="STRICT_DNS",
        dns_lookup_family=_dns_family(proxy),
        connect_timeout={"seconds": 10},
        load_assignment=found,
        transport_socket=secured,
        circuit_breakers=_breakers(ConnectionPool()),
    )
    _set_http(cluster, ConnectionPool(), False)
    return cluster


def client_tls(store: Store, proxy: Proxy, service: Service, port: Port) -> ClientTls | None:
    """What a DestinationRule says of TLS to a port of a service."""
    rule = store.destination_rule(service, proxy.namespace)
    return _effective([rule.spec.traffic_policy if rule else None], port.number)[2]


def _dns_family(proxy: Proxy) -> Any:
    """AUTO: IPv6 if there is any."""
    return pb.Cluster.AUTO if proxy.is_ipv6 else pb.Cluster.V4_PREFERRED


def _discovery(service: Service, proxy: Proxy, found: Any) -> str:
    """How a proxy finds the endpoints, of which these are known here."""
    if proxy.is_captured and (service.resolution == "NONE" or service.headless):
        return "ORIGINAL_DST"  # the client has chosen the endpoint
    if service.resolution == "DNS_ROUND_ROBIN" and sum(len(one.lb_endpoints) for one in found.endpoints) == 1:
        return "LOGICAL_DNS"
    return "EDS" if service.resolution in ("EDS", "NONE") else "STRICT_DNS"


def _cluster(
    store: Store,
    proxy: Proxy,
    service: Service,
    port: Port,
    name: str,
    policies: list[TrafficPolicy | None],
    discovery: str,
    tcp: bool,
) -> Any:
    balancer = _balancer(policies, service, port.number)
    _, pool, client_tls = _effective(policies, port.number)
    # It has no place in a port's settings, which therefore do not stand for it.
    budget = next((one.retry_budget for one in policies if one and one.retry_budget), None)
    timeout = pool.tcp.connect_timeout
    cluster = pb.Cluster(
        name=name,
        type=discovery,
        connect_timeout=seconds(timeout) if timeout is not None else {"seconds": 10},
        circuit_breakers=_breakers(pool, budget),
        metadata=_istio(service),
    )
    if discovery == "ORIGINAL_DST":
        cluster.lb_policy = "CLUSTER_PROVIDED"
    else:
        set_policy(cluster, balancer, service.host in store.sticky)
        _set_slow_start(cluster, balancer)
    _set_keepalive(cluster, pool)
    if discovery == "EDS":
        cluster.eds_cluster_config.eds_config.CopyFrom(pb.message("envoy.config.core.v3.ConfigSource")(**ADS))
    elif discovery != "ORIGINAL_DST":
        cluster.dns_lookup_family = _dns_family(proxy)
    in_mesh = any(map(store.peers.accepts_mutual_tls, service.backends[port.number]))
    http2 = port.is_http2 or (port.is_http and pool.http.h2_upgrade_policy == "UPGRADE")
    if tcp or (port.is_sniffed and proxy.is_envoy):
        alpn = []
    elif port.is_sniffed:
        # For a server to which another service says that it is HTTP: it has to choose. Ours speaks what is chosen, if
        # anything is, Envoy what its client speaks.
        alpn = ["h2", "http/1.1"]
    elif pool.http.use_client_protocol:
        alpn = ["h2", "http/1.1"]
    else:
        # The server must choose by ALPN what is spoken here anyway.
        alpn = ["h2"] if http2 else ["http/1.1"]
    _set_tls(store, proxy, service, port, cluster, client_tls, in_mesh, alpn, not tcp)
    if not tcp:
        _set_http(cluster, pool, http2, port.is_sniffed)
    # Where the client chooses the endpoint it goes there, however that is.
    if discovery != "ORIGINAL_DST":
        set_health_check(cluster, health_check(store.health_checks, service, port), service.host, http2)
        set_outlier_detection(cluster, [one.outlier_detection for one in _layers(policies, port.number)])
    return cluster


def balancer(store: Store, proxy: Proxy, service: Service, port: Port, subset: str) -> LoadBalancer:
    """How a proxy chooses among the endpoints of a port, or of one subset of it."""
    rule = store.destination_rule(service, proxy.namespace)
    found = store.subset(service, subset, proxy.namespace) if subset else None
    general = rule.spec.traffic_policy if rule else None
    return _balancer([found.traffic_policy if found else None, general], service, port.number)


def _balancer(policies: list[TrafficPolicy | None], service: Service, port: int) -> LoadBalancer:
    """What the policies say, or else the service."""
    written = _effective(policies, port)[0]
    if service.keeps_clients and written.simple is None and written.consistent_hash is None:
        return replace(written, consistent_hash=ConsistentHash(use_source_ip=True))
    return written


def _set_slow_start(cluster: Any, balancer: LoadBalancer) -> None:
    wanted = balancer.slow_start
    if wanted is None or cluster.lb_policy not in (pb.Cluster.ROUND_ROBIN, pb.Cluster.LEAST_REQUEST):
        return
    by_turns = cluster.lb_policy == pb.Cluster.ROUND_ROBIN
    policy = cluster.round_robin_lb_config if by_turns else cluster.least_request_lb_config
    config = policy.slow_start_config
    config.slow_start_window.CopyFrom(pb.message("google.protobuf.Duration")(**seconds(wanted.duration)))
    if wanted.minimum_percent is not None:
        config.min_weight_percent.value = wanted.minimum_percent
    if wanted.aggression is not None:
        config.aggression.default_value = wanted.aggression
        config.aggression.runtime_key = f"warmup.{cluster.name}"  # Envoy wants one; nothing is looked up


def _effective(
    policies: list[TrafficPolicy | None], port: int
) -> tuple[LoadBalancer, ConnectionPool, ClientTls | None]:
    """Each setting from the first policy that has it."""
    layers = _layers(policies, port)
    balancer = next((one.load_balancer for one in layers if one.load_balancer), LoadBalancer())
    pool = next((one.connection_pool for one in layers if one.connection_pool), ConnectionPool())
    return balancer, pool, next((one.tls for one in layers if one.tls), None)


def _layers(policies: list[TrafficPolicy | None], port: int) -> list[TrafficPolicy | PortPolicy]:
    """The policies that say something about a port; a port's policy stands for the general one."""
    layers: list[TrafficPolicy | PortPolicy] = []
    for policy in policies:
        if policy is not None:
            ported = [one for one in policy.port_level_settings if one.port.number == port]
            layers += ported or [policy]
    return layers


def _set_tls(
    store: Store,
    proxy: Proxy,
    service: Service,
    port: Port,
    cluster: Any,
    wanted: ClientTls | None,
    in_mesh: bool,
    alpn: list[str],
    http: bool,
) -> None:
    mode = wanted.mode if wanted else ("ISTIO_MUTUAL" if in_mesh and not service.external else "DISABLE")
    if mode == "DISABLE":
        return
    if wanted is not None and mode in ("SIMPLE", "MUTUAL"):
        secured = tls.client(wanted, service.host, alpn, proxy.namespace, service.subject_alt_names)
        cluster.transport_socket.CopyFrom(pb.message("envoy.config.core.v3.TransportSocket")(**secured))
        return
    sni = (wanted.sni if wanted else "") or f"outbound_.{port.number}_._.{service.host}"
    told = [tls.MESH_HTTP] if http and port.is_sniffed else []
    transport = tls.outbound(proxy, _identities(store, service, port, wanted), sni, [*told, tls.MESH_PROTOCOL, *alpn])
    if wanted is not None or cluster.type == pb.Cluster.ORIGINAL_DST:
        # Who asks for it means every endpoint; and one that the client chose is an address without labels.
        cluster.transport_socket.CopyFrom(pb.message("envoy.config.core.v3.TransportSocket")(**transport))
        return
    # Which endpoints speak it is known per endpoint, so that a service can join the mesh one by one.
    cluster.transport_socket_matches.add(
        name="tlsMode-istio",
        match=struct({"tlsMode": "istio"}),
        transport_socket=transport,
    )
    cluster.transport_socket_matches.add(name="tlsMode-disabled", match=struct({}), transport_socket=tls.raw_buffer())


def _identities(store: Store, service: Service, port: Port, wanted: ClientTls | None) -> list[str]:
    """Who may answer over the mesh's TLS: whom the rule names, else whoever serves the port."""
    if wanted is not None and wanted.subject_alt_names:
        return [*wanted.subject_alt_names]
    domain = store.options.trust_domain
    inside = (one.workload for one in service.backends[port.number] if one.workload.in_mesh)
    served = [names.spiffe_id(domain, one.namespace, one.service_account or "default") for one in inside]
    return [*served, *service.subject_alt_names]


def _set_http(cluster: Any, pool: ConnectionPool, http2: bool, as_client: bool = False) -> None:
    options = pb.message(_HTTP_OPTIONS)()
    streams = pool.http.max_concurrent_streams
    if as_client or pool.http.use_client_protocol:
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
        if streams is not None:
            options.use_downstream_protocol_config.http2_protocol_options.max_concurrent_streams.value = streams
    elif http2:
        options.explicit_http_config.http2_protocol_options.SetInParent()
        if streams is not None:
            options.explicit_http_config.http2_protocol_options.max_concurrent_streams.value = streams
    else:
        options.explicit_http_config.http_protocol_options.SetInParent()
    common = options.common_http_protocol_options
    for field, limit in (
        ("idle_timeout", pool.http.idle_timeout),
        ("max_connection_duration", pool.tcp.max_connection_duration),
    ):
        if limit is not None:
            getattr(common, field).CopyFrom(pb.message("google.protobuf.Duration")(**seconds(limit)))
    if pool.http.max_requests_per_connection:
        common.max_requests_per_connection.value = pool.http.max_requests_per_connection
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pb.pack(options))


def _set_keepalive(cluster: Any, pool: ConnectionPool) -> None:
    wanted = pool.tcp.tcp_keepalive
    if wanted is None:
        return
    probes = cluster.upstream_connection_options.tcp_keepalive
    probes.SetInParent()
    if wanted.probes is not None:
        probes.keepalive_probes.value = wanted.probes
    if wanted.time is not None:
        probes.keepalive_time.value = int(wanted.time.total_seconds())
    if wanted.interval is not None:
        probes.keepalive_interval.value = int(wanted.interval.total_seconds())


def _breakers(pool: ConnectionPool, budget: RetryBudget | None = None) -> dict[str, Any]:
    limits = {
        "max_connections": pool.tcp.max_connections,
        "max_pending_requests": pool.http.http1_max_pending_requests,
        "max_requests": pool.http.http2_max_requests,
        "max_retries": pool.http.max_retries,
    }
    thresholds: dict[str, Any] = {name: wrapped(limit or _NO_LIMIT) for name, limit in limits.items()}
    if budget is not None:
        thresholds["retry_budget"] = {
            "budget_percent": {"value": budget.percent},
            "min_retry_concurrency": wrapped(budget.min_retry_concurrency),
        }
    return {"thresholds": [thresholds]}


def _istio(service: Service) -> dict[str, Any]:
    """What telemetry reads: which service a cluster stands for."""
    described = {"host": service.host, "name": service.name, "namespace": service.namespace}
    return metadata(istio={"services": [described]})
