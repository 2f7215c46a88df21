"""A sidecar behind transparent capture: the kernel leads every connection to one of two virtual listeners.

Out of the workload: `virtualOutbound` hands each connection to the listener at the address that the client wanted.
Those are not bound; there is one for each port number at which services speak HTTP or TLS, at the wildcard address,
where host or server name tells services apart, and one for each virtual IP and port of the others. What is for no
service passes as it is, or is refused, by the outbound traffic policy.

Into the workload: `virtualInbound` has a filter chain for each port of the application. Other ports pass as they are.

A Sidecar resource narrows this, as with Istio: its ingress replaces the ports that services tell of, and with egress
listeners the workload reaches what those name, on their ports. Names, ports and addresses are Istio's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pymesh.control.resources.workloads import Sidecar
from pymesh.control.store.services import Port, Service
from pymesh.control.translate import clusters, listeners, names, sidecar
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.wire import extension, wrapped
from pymesh.control.xds import pb

OUTBOUND_PORT, INBOUND_PORT = 15001, 15006
PASSTHROUGH, INBOUND_PASSTHROUGH, BLACK_HOLE = "PassthroughCluster", "InboundPassthroughCluster", "BlackHoleCluster"
_TLS_PROTOCOLS = frozenset({"HTTPS", "TLS"})


@dataclass(slots=True)
class Captured:
    """What the proxy is given beside the clusters of services."""

    listeners: list[Any] = field(default_factory=list)
    tables: list[Any] = field(default_factory=list)
    clusters: list[Any] = field(default_factory=list)


def build(scope: Scope, resource: Sidecar | None) -> Captured:
    """Everything that capture needs."""
    # As with Istio, the version of IP is that of the workload's address.
    is_ipv6 = ":" in scope.proxy.address
    any_address, source = ("::", "::6") if is_ipv6 else ("0.0.0.0", "127.0.0.6")
    made = Captured(
        clusters=[clusters.passthrough(PASSTHROUGH), clusters.passthrough(INBOUND_PASSTHROUGH, source)],
    )
    made.clusters.append(clusters.black_hole(BLACK_HOLE))
    _virtual_outbound(scope, resource, any_address, made)
    if resource is None or not resource.spec.egress:
        _services(scope, resource, any_address, made)
    _virtual_inbound(scope, resource, any_address, source, made)
    return made


def _allows_any(scope: Scope, resource: Sidecar | None) -> bool:
    own = resource.spec.outbound_traffic_policy if resource else None
    return (own.mode if own else scope.store.options.outbound_traffic_policy) == "ALLOW_ANY"


def _pass(scope: Scope, cluster: str) -> dict[str, Any]:
    return {"filters": [listeners.tcp(scope.store.options, cluster, [(cluster, 1)])]}


def _unknown(scope: Scope, resource: Sidecar | None) -> dict[str, Any]:
    """The chain for connections to no service."""
    return _pass(scope, PASSTHROUGH if _allows_any(scope, resource) else BLACK_HOLE)


def _to_itself(scope: Scope, port: int) -> dict[str, Any]:
    """Who asks for the virtual listener itself would be passed on to it again and again."""
    return {**_pass(scope, BLACK_HOLE), "filter_chain_match": {"destination_port": wrapped(port)}}


def _virtual_outbound(scope: Scope, resource: Sidecar | None, any_address: str, made: Captured) -> None:
    chains = [_to_itself(scope, OUTBOUND_PORT)]
    one = listeners.listener("virtualOutbound", any_address, OUTBOUND_PORT, "OUTBOUND", chains)
    one.default_filter_chain.CopyFrom(_chain(_unknown(scope, resource)))
    one.use_original_dst.value = True
    made.listeners.append(one)


def _services(scope: Scope, resource: Sidecar | None, any_address: str, made: Captured) -> None:
    """The listeners that `virtualOutbound` hands connections to."""
    shared: dict[int, list[tuple[Service, Port]]] = {}
    at_address: dict[tuple[str, int], Service] = {}
    for service, port in _reachable(scope):
        if port.is_http or port.protocol in _TLS_PROTOCOLS:
            shared.setdefault(port.number, []).append((service, port))
            continue
        if not service.addresses:
            scope.report.warning(
                service.at,
                f"connections to {service.host!r} port {port.number} cannot be told from others",
                "a TCP service needs a virtual IP: clusterIP of a Service, addresses of a ServiceEntry",
            )
        for address in service.addresses:
            first = at_address.setdefault((address, port.number), service)
            if first is not service:
                scope.report.warning(
                    service.at, f"{address}:{port.number} is that of {first.host!r}", "give each its own address"
                )
                continue
            shares = sidecar.service_shares(scope, service, port)
            network = listeners.tcp(scope.store.options, shares[0][0], shares)
            made.listeners.append(_unbound(address, port.number, [{"filters": [network]}]))
    for number, found in sorted(shared.items()):
        _shared(scope, resource, any_address, number, found, made)


def _reachable(scope: Scope) -> Iterator[tuple[Service, Port]]:
    for host in sorted(scope.store.services):
        service = scope.store.services[host]
        for port in service.ports:
            if port.number in (OUTBOUND_PORT, INBOUND_PORT):
                scope.report.warning(service.at, f"port {port.number} is the sidecar's own", "serve it on another port")
            else:
                yield service, port


def _shared(
    scope: Scope,
    resource: Sidecar | None,
    any_address: str,
    number: int,
    found: list[tuple[Service, Port]],
    made: Captured,
) -> None:
    """The listener for one port number: TLS by server name, HTTP by host."""
    options = scope.store.options
    rules: list[tuple[tuple[str, ...], list[tuple[str, int]]]] = []
    for service, port in found:
        if not port.is_http:
            domains = tuple(names.domains(service, scope.proxy.namespace))
            told = sidecar.tls_rules(scope, service, port)
            rules += told or [(domains, sidecar.service_shares(scope, service, port))]
    with_hosts = [(service, port) for service, port in found if port.is_http]
    if with_hosts:
        made.tables.append(_table(scope, resource, number, with_hosts))
        network = listeners.http(options, f"outbound_{any_address}_{number}", "outbound", str(number))
        rest = {"filters": [network]}
    else:
        rest = _unknown(scope, resource)
    one = _unbound(any_address, number, listeners.passed_on(options, rules) if rules else [])
    one.default_filter_chain.CopyFrom(_chain(rest))
    made.listeners.append(one)


def _table(scope: Scope, resource: Sidecar | None, number: int, found: list[tuple[Service, Port]]) -> Any:
    table = pb.RouteConfiguration(name=str(number), validate_clusters=wrapped(False), ignore_port_in_host_matching=True)
    taken: set[str] = set()
    for service, port in found:
        addresses = [f"[{one}]" if ":" in one else one for one in service.addresses]
        # Hosts of one ServiceEntry have the same addresses; a domain can be in one virtual host only.
        domains = [one for one in [*names.domains(service, scope.proxy.namespace), *addresses] if one not in taken]
        taken.update(domains)
        table.virtual_hosts.add(
            name=f"{service.host}:{number}",
            domains=domains,
            routes=sidecar.service_routes(scope, service, port),
            include_request_attempt_count=True,
        )
    route: dict[str, Any] = {"name": "block_all", "match": {"prefix": "/"}, "direct_response": {"status": 502}}
    if _allows_any(scope, resource):
        action = {"cluster": PASSTHROUGH, "timeout": {"seconds": 0}}
        route = {"name": "allow_any", "match": {"prefix": "/"}, "route": action}
    table.virtual_hosts.add(name=route["name"], domains=["*"], routes=[route])
    return table


def _virtual_inbound(scope: Scope, resource: Sidecar | None, any_address: str, source: str, made: Captured) -> None:
    chains = [_to_itself(scope, INBOUND_PORT)]
    for number, chain, cluster in _application(scope, resource, any_address, source):
        chains.append({**chain, "filter_chain_match": {"destination_port": wrapped(number)}})
        made.clusters.append(cluster)
    one = listeners.listener("virtualInbound", any_address, INBOUND_PORT, "INBOUND", chains)
    one.default_filter_chain.CopyFrom(_chain(_pass(scope, INBOUND_PASSTHROUGH)))
    restored = pb.message("envoy.extensions.filters.listener.original_dst.v3.OriginalDst")()
    one.listener_filters.add(**extension("envoy.filters.listener.original_dst", restored))
    if scope.proxy.interception == "TPROXY":
        one.transparent.value = True
    made.listeners.append(one)


def _application(
    scope: Scope, resource: Sidecar | None, any_address: str, source: str
) -> Iterator[tuple[int, dict[str, Any], Any]]:
    """Port, filter chain and cluster of everything that the application serves."""
    if resource is not None and resource.spec.ingress:
        for one in resource.spec.ingress:
            yield one.port.number, *sidecar.ingress(scope, one)
        return
    for number, (service, port) in sorted(_served(scope).items()):
        chain = sidecar.inbound_chain(scope, number, port.is_http, f"inbound_{any_address}_{number}")
        yield number, chain, clusters.captured(number, source, port.is_http2, service, port.is_http)


def _served(scope: Scope) -> dict[int, tuple[Service, Port]]:
    """The application's ports, by the services that select the workload."""
    proxy = scope.proxy
    found: dict[int, tuple[Service, Port]] = {}
    for host in sorted(scope.store.services):
        service = scope.store.services[host]
        if not service.selects(proxy.namespace, proxy.labels):
            continue
        for port in service.ports:
            own = [one.port for one in service.backends[port.number] if one.workload.address == proxy.address]
            numbers = own or ([port.target] if isinstance(port.target, int) else [])
            for number in numbers:
                found.setdefault(number, (service, port))
    return found


def _unbound(address: str, port: int, chains: list[dict[str, Any]]) -> Any:
    one = listeners.listener(names.listener(address, port), address, port, "OUTBOUND", chains)
    one.bind_to_port.value = False
    return one


def _chain(fields: dict[str, Any]) -> Any:
    return pb.message("envoy.config.listener.v3.FilterChain")(**fields)
