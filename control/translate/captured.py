"""A sidecar behind transparent capture: the kernel leads every connection to one of two virtual listeners.

Out of the workload: `virtualOutbound` hands each connection to the listener at the address that the client wanted.
Those are not bound; there is one for each virtual IP and port of TCP and TLS services, and one for each port number at
the wildcard address (`at_port.py`), where host, server name or network tells services apart. What is for no service
passes as it is, or is refused, by the outbound traffic policy.

Into the workload: `virtualInbound` has a filter chain for each port of the application. Who comes to another port needs
to prove and to be allowed the same, with no look into what is said: it is a connection, whatever it carries.

A Sidecar resource narrows this, as with Istio: its ingress replaces the ports that services tell of, and with egress
listeners the workload reaches what those name, with a port on that port alone. Names, ports and addresses are Istio's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pymesh.control.resources.workloads import Sidecar
from pymesh.control.store.services import Port, Service
from pymesh.control.translate import application, clusters, common, listeners, names, selected_filters, sidecar
from pymesh.control.translate.at_port import PASSTHROUGH, TLS_PROTOCOLS, AtPort, by_server_name
from pymesh.control.translate.common import Outbound
from pymesh.control.translate.l4 import L4Rule
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.telemetry import ListenerSide
from pymesh.control.translate.wire import extension, wrapped
from pymesh.control.xds import pb

OUTBOUND_PORT, INBOUND_PORT = 15001, 15006
#: Which no PeerAuthentication has a setting for.
_NO_PORT = 0
INBOUND_PASSTHROUGH, BLACK_HOLE = "InboundPassthroughCluster", "BlackHoleCluster"


@dataclass(slots=True)
class Captured:
    """What the proxy is given beside the clusters of services."""

    listeners: list[Any] = field(default_factory=list)
    tables: list[Any] = field(default_factory=list)
    clusters: list[Any] = field(default_factory=list)


def inbound(scope: Scope, resource: Sidecar | None) -> Captured:
    """The way into the workload."""
    any_address, source = _addresses(scope)
    made = Captured()
    _virtual_inbound(scope, resource, any_address, source, made)
    return made


def outbound(scope: Scope, resource: Sidecar | None) -> Outbound:
    """The way out of it, with the clusters of the services."""

    def make(inner: Scope) -> tuple[list[Any], list[Any], list[Any]]:
        any_address, source = _addresses(inner)
        made = Captured(
            clusters=[clusters.passthrough(PASSTHROUGH), clusters.passthrough(INBOUND_PASSTHROUGH, source)],
        )
        made.clusters.append(clusters.black_hole(BLACK_HOLE))
        _virtual_outbound(inner, resource, any_address, made)
        _services(inner, resource, any_address, made)
        return made.listeners, made.tables, made.clusters

    return common.outbound(scope, resource, make)


def _addresses(scope: Scope) -> tuple[str, str]:
    """Any address, and the one that the last leg to the application comes from."""
    return ("::", "::6") if scope.proxy.is_ipv6 else ("0.0.0.0", "127.0.0.6")


def _allows_any(scope: Scope, resource: Sidecar | None) -> bool:
    own = resource.spec.outbound_traffic_policy if resource else None
    return (own.mode if own else scope.store.options.outbound_traffic_policy) == "ALLOW_ANY"


def _pass(scope: Scope, side: ListenerSide, cluster: str) -> dict[str, Any]:
    return {"filters": listeners.tcp(scope, cluster, side, [(cluster, 1)])}


def _unknown(scope: Scope, resource: Sidecar | None) -> dict[str, Any]:
    """The chain for connections to no service."""
    return _pass(scope, "outbound", PASSTHROUGH if _allows_any(scope, resource) else BLACK_HOLE)


def _to_itself(scope: Scope, side: ListenerSide, port: int) -> dict[str, Any]:
    """Who asks for the virtual listener itself would be passed on to it again and again."""
    return {**_pass(scope, side, BLACK_HOLE), "filter_chain_match": {"destination_port": wrapped(port)}}


def _virtual_outbound(scope: Scope, resource: Sidecar | None, any_address: str, made: Captured) -> None:
    chains = [_to_itself(scope, "outbound", OUTBOUND_PORT)]
    one = listeners.listener("virtualOutbound", any_address, OUTBOUND_PORT, "OUTBOUND", chains)
    one.default_filter_chain.CopyFrom(_chain(_unknown(scope, resource)))
    one.use_original_dst.value = True
    made.listeners.append(one)


def _services(scope: Scope, resource: Sidecar | None, any_address: str, made: Captured) -> None:
    """The listeners that `virtualOutbound` hands connections to."""
    ports: dict[int, AtPort] = {}
    at_address: dict[tuple[str, int], list[tuple[Service, Port]]] = {}
    for service, port in _reachable(scope, resource):
        if port.is_http:
            ports.setdefault(port.number, AtPort(port.number)).by_host.append((service, port))
            continue
        for address in _own_addresses(service, port):
            at_address.setdefault((address, port.number), []).append((service, port))
        if "/" in "".join(service.addresses) or not (service.addresses or service.headless):
            at_port = ports.setdefault(port.number, AtPort(port.number))
            (at_port.by_host if port.protocol in TLS_PROTOCOLS else at_port.by_network).append((service, port))
    tables: dict[tuple[str, int], Any] = {}
    for (address, number), found in at_address.items():
        # Whose an address is that several give is first.
        found.sort(key=lambda pair: pair[0].precedence)
        rules = _at_address(scope, address, found)
        is_by_name = any(rule.server_names for rule in rules)
        chains = listeners.l4(scope, rules, tls=is_by_name)
        service, port = found[0]
        if port.is_sniffed:
            table = tables.get((service.host, number)) or sidecar.sniffed_table(scope, service, port)
            tables[service.host, number] = table
            filters = selected_filters.outbound(scope, number)
            network = listeners.http(scope, f"outbound_{address}_{number}", "outbound", table.name, filters)
            match = {"application_protocols": listeners.SNIFFED_HTTP}
            chains.insert(0, {"filter_chain_match": match, "filters": [network]})
        made.listeners.append(_unbound(address, number, chains))
    made.tables += tables.values()
    allows_any = _allows_any(scope, resource)
    for number, shared in sorted(ports.items()):
        chains, rest, table = shared.build(scope, any_address, _unknown(scope, resource), allows_any)
        made.tables += [table] if table is not None else []
        one = _unbound(any_address, number, chains)
        one.default_filter_chain.CopyFrom(_chain(rest))
        # A connection that somebody keeps ready for HTTP says nothing for as long as it likes.
        one.continue_on_listener_filters_timeout = table is not None
        made.listeners.append(one)


def _at_address(scope: Scope, address: str, found: list[tuple[Service, Port]]) -> list[L4Rule]:
    """Where connections go at an address. It tells its service, so no server name is asked for but those that
    VirtualServices ask for, and those of further TLS services at the same address.
    """
    (first, port), *others = found
    is_tls = port.protocol in TLS_PROTOCOLS
    rules = (sidecar.tls_rules(scope, first, port, ()) if is_tls else []) or sidecar.tcp_rules(scope, first, port)
    for service, own in others:
        if is_tls and own.protocol in TLS_PROTOCOLS:
            rules = [*rules, *by_server_name(scope, service, own)]
        else:
            scope.report.warning(
                service.at, f"{address}:{own.number} is that of {first.host!r}", "give each its own address"
            )
    return rules


def _own_addresses(service: Service, port: Port) -> list[str]:
    """The addresses that are the service's alone; of a headless one, those of its endpoints."""
    if not service.headless:
        return list(service.virtual_ips)
    found = [one.workload for one in service.backends[port.number]]
    return list(dict.fromkeys(address for one in found for address in (one.address, one.second_address) if address))


def _reachable(scope: Scope, resource: Sidecar | None) -> Iterator[tuple[Service, Port]]:
    """What the workload may reach at the services' own addresses: everything, or what its Sidecar names."""
    imported = [one for one in resource.spec.egress if not sidecar.is_explicit(scope, one)] if resource else []
    if resource is None or not resource.spec.egress:
        named: list[tuple[int | None, Service]] = [
            (None, scope.store.services[host])
            for host in sorted(scope.store.services)
            if scope.store.services[host].is_visible(scope.proxy.namespace)
        ]
    else:
        named = [
            (one.port.number if one.port else None, service)
            for one in imported
            for service in sidecar.named(scope, one)
        ]
    seen: set[tuple[str, int]] = set()
    for only, service in named:
        for port in service.ports:
            if (service.host, port.number) in seen or only not in (None, port.number):
                continue
            seen.add((service.host, port.number))
            if port.number in (OUTBOUND_PORT, INBOUND_PORT):
                scope.report.warning(service.at, f"port {port.number} is the sidecar's own", "serve it on another port")
            else:
                yield service, port


def _virtual_inbound(scope: Scope, resource: Sidecar | None, any_address: str, source: str, made: Captured) -> None:
    chains = [_to_itself(scope, "inbound", INBOUND_PORT)]
    for number, own, cluster in _application(scope, resource, any_address, source):
        chains += _at_port(number, own)
        made.clusters.append(cluster)
    served = {chain["filter_chain_match"]["destination_port"]["value"] for chain in chains}
    for number in scope.store.peers.ports(scope.proxy.namespace, scope.proxy.labels):
        if number not in served:
            chains += _at_port(number, sidecar.inbound_tcp(scope, number, INBOUND_PASSTHROUGH))
    *mutual, rest = sidecar.inbound_tcp(scope, _NO_PORT, INBOUND_PASSTHROUGH)
    one = listeners.listener("virtualInbound", any_address, INBOUND_PORT, "INBOUND", [*chains, *mutual])
    one.default_filter_chain.CopyFrom(_chain(rest))
    restored = pb.message("envoy.extensions.filters.listener.original_dst.v3.OriginalDst")()
    # First: whoever says nothing goes on without what the inspectors, and all behind them, would find out.
    first = pb.message("envoy.config.listener.v3.ListenerFilter")
    one.listener_filters.insert(0, first(**extension("envoy.filters.listener.original_dst", restored)))
    if scope.proxy.interception == "TPROXY":
        one.transparent.value = True
    made.listeners.append(one)


def _at_port(number: int, chains: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The chains, for connections to one port."""
    for chain in chains:
        match = {**chain.get("filter_chain_match", {}), "destination_port": wrapped(number)}
        yield {**chain, "filter_chain_match": match}


def _application(
    scope: Scope, resource: Sidecar | None, any_address: str, source: str
) -> Iterator[tuple[int, list[dict[str, Any]], Any]]:
    """Port, filter chains and cluster of everything that the application serves."""
    if resource is not None and resource.spec.ingress:
        for one in resource.spec.ingress:
            yield one.port.number, *sidecar.ingress(scope, one)
        return
    served: dict[int, tuple[Service, Port]] = {}
    # Where one of several services says what is spoken, that is so.
    found = application.served(scope.store, scope.proxy)
    for number, service, port in sorted(found, key=lambda one: one[2].is_sniffed):
        served.setdefault(number, (service, port))
    for number, (service, port) in sorted(served.items()):
        prefix = f"inbound_{any_address}_{number}"
        if port.is_sniffed:
            own = sidecar.inbound_sniffed(scope, number, prefix)
        else:
            own = sidecar.inbound_chains(scope, number, port.is_http, prefix)
        yield number, own, clusters.captured(number, source, service, port)


def _unbound(address: str, port: int, chains: list[dict[str, Any]]) -> Any:
    one = listeners.listener(names.listener(address, port), address, port, "OUTBOUND", chains)
    one.bind_to_port.value = False
    return one


def _chain(fields: dict[str, Any]) -> Any:
    return pb.message("envoy.config.listener.v3.FilterChain")(**fields)
