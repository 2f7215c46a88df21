"""A sidecar's listeners, as its Sidecar resource lays them out on explicit ports, and the parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymesh.control.resources.workloads import HTTP_PROTOCOLS, EgressListener, IngressListener
from pymesh.control.resources.workloads import Port as ListenerPort
from pymesh.control.store.services import Port, Service
from pymesh.control.translate import (
    access,
    clusters,
    grpc_route,
    http_route,
    kube_gateway,
    l4,
    listeners,
    names,
    routes,
    selected_filters,
    tls,
)
from pymesh.control.translate.l4 import L4Rule
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.wire import wrapped
from pymesh.control.xds import pb


def inbound(scope: Scope, one: IngressListener) -> tuple[Any, Any]:
    """The listener for one port of the application, and the cluster of that application."""
    bind, number = one.bind or "0.0.0.0", one.port.number
    chains, cluster = ingress(scope, one)
    return listeners.listener(names.listener(bind, number), bind, number, "INBOUND", chains), cluster


def ingress(scope: Scope, one: IngressListener) -> tuple[list[dict[str, Any]], Any]:
    """The filter chains for one port of the application, and the cluster of that application."""
    address, app_port = one.endpoint() or ("127.0.0.1", one.port.number)
    number, protocol = one.port.number, one.port.protocol
    is_http = protocol in HTTP_PROTOCOLS
    service = _served(scope, one.port)
    cluster = clusters.inbound(number, address, app_port, protocol in ("HTTP2", "GRPC"), service, is_http)
    return inbound_chains(scope, number, is_http, f"inbound_{address}_{number}"), cluster


def inbound_chains(scope: Scope, number: int, is_http: bool, stat_prefix: str) -> list[dict[str, Any]]:
    """To the inbound cluster of a port."""
    if not is_http:
        return inbound_tcp(scope, number, names.inbound(number))
    return _as_peers_may(scope, number, _requests(scope, number, stat_prefix), is_http=True)


def inbound_tcp(scope: Scope, number: int, cluster: str) -> list[dict[str, Any]]:
    """To a cluster, as connections that nobody looks into; the last chain takes whatever the others do not."""
    return _as_peers_may(scope, number, _connections(scope, cluster), is_http=False)


def inbound_sniffed(scope: Scope, number: int, stat_prefix: str) -> list[dict[str, Any]]:
    """To the inbound cluster of a port that does not say what is spoken there.

    The mesh's clients say when TLS begins whether they speak HTTP; of plain text it is seen. Every chain asks for TLS
    or for plain text: as soon as one does, Envoy tries none that does not.
    """
    requests = {"filters": _requests(scope, number, stat_prefix)}
    connections = {"filters": _connections(scope, names.inbound(number))}
    plain: dict[str, Any] = {"transport_protocol": "raw_buffer"}
    secured: dict[str, Any] = {"transport_protocol": "tls"}
    seen: dict[str, Any] = {**plain, "application_protocols": listeners.SNIFFED_HTTP}
    told: dict[str, Any] = {**secured, "application_protocols": tls.MESH_HTTPS}
    open_to_all = [
        {**requests, "filter_chain_match": seen},
        {**connections, "filter_chain_match": plain},
        {**connections, "filter_chain_match": secured},
    ]
    mode = scope.store.peers.mode(scope.proxy.namespace, scope.proxy.labels, number)
    if mode == "DISABLE":
        return open_to_all
    # No protocol is chosen, not for requests either: which HTTP it is they tell themselves.
    socket = tls.inbound(scope.proxy, scope.store.options.trust_domain, http=False)
    first = {**requests, "transport_socket": socket, "filter_chain_match": told}
    mutual = {**connections, "transport_socket": socket}
    if mode == "STRICT":
        return [first, {**mutual, "filter_chain_match": secured}, {**mutual, "filter_chain_match": plain}]
    of_mesh: dict[str, Any] = {**secured, "application_protocols": [tls.MESH_PROTOCOL]}
    return [first, {**mutual, "filter_chain_match": of_mesh}, *open_to_all]


def _requests(scope: Scope, number: int, stat_prefix: str) -> list[dict[str, Any]]:
    """The network filters of a port for HTTP."""
    filters = selected_filters.inbound(scope, number)
    return [listeners.http(scope, stat_prefix, "inbound", _inbound_routes(names.inbound(number), number), filters)]


def _connections(scope: Scope, cluster: str) -> list[dict[str, Any]]:
    """The network filters for connections that nobody looks into."""
    return [*access.inbound_tcp(scope), *listeners.tcp(scope, cluster, "inbound", [(cluster, 1)])]


def _as_peers_may(scope: Scope, number: int, network: list[dict[str, Any]], *, is_http: bool) -> list[dict[str, Any]]:
    """From the mesh, over mutual TLS, and as the port's policy says in plain text.

    Where both are taken the mesh's clients are known by the protocol that they ask for. TLS of others is for the
    application, which the proxy does not look into.
    """
    chain = {"filters": network}
    mode = scope.store.peers.mode(scope.proxy.namespace, scope.proxy.labels, number)
    if mode == "DISABLE":
        return [chain]
    mutual = {**chain, "transport_socket": tls.inbound(scope.proxy, scope.store.options.trust_domain, http=is_http)}
    if mode == "STRICT":
        return [mutual]
    return [{**mutual, "filter_chain_match": {"application_protocols": [tls.MESH_PROTOCOL]}}, chain]


def is_explicit(scope: Scope, one: EgressListener) -> bool:
    """Whether the application connects to the listener itself; else to services, and is captured."""
    return one.port is not None and (bool(one.bind) or one.capture_mode == "NONE" or not scope.proxy.is_captured)


def outbound(scope: Scope, one: EgressListener) -> tuple[Any | None, Any | None]:
    """The listener on which the application calls others, and its routes if it is HTTP."""
    if one.port is None or (one.capture_mode == "IPTABLES" and not scope.proxy.is_captured):
        scope.report.warning(
            one.at,
            f"{scope.proxy.name}.{scope.proxy.namespace} captures nothing that this listener could take",
            "give it a port and captureMode: NONE, or set INTERCEPTION_MODE in the node's metadata",
        )
        return None, None
    number, bind = one.port.number, one.bind or ("::1" if scope.proxy.is_ipv6 else "127.0.0.1")
    found = _imported(scope, one, one.port)
    name = names.listener(bind, number)
    if one.port.protocol not in HTTP_PROTOCOLS:
        by_name = _by_server_name(scope, one.port, found)
        if by_name:
            chains = listeners.l4(scope, by_name, tls=True)
            return listeners.listener(name, bind, number, "OUTBOUND", chains), None
        chains = listeners.l4(scope, _tcp_rules(scope, one, number, found))
        return (listeners.listener(name, bind, number, "OUTBOUND", chains) if chains else None), None
    filters = selected_filters.outbound(scope, number)
    network = listeners.http(scope, f"outbound_{bind}_{number}", "outbound", str(number), filters)
    made = listeners.listener(name, bind, number, "OUTBOUND", [{"filters": [network]}])
    return made, _outbound_routes(scope, number, found)


def _served(scope: Scope, wanted: ListenerPort) -> Service | None:
    """The service whose port of that name the workload serves: what its metrics are about."""
    proxy = scope.proxy
    serving = [one for one in scope.store.services.values() if one.selects(proxy.namespace, proxy.labels)]
    named = [one for one in serving if any(wanted.name == port.name for port in one.ports)]
    return next(iter(sorted(named or serving, key=lambda one: one.host)), None)


def _inbound_routes(cluster: str, number: int) -> Any:
    route = pb.Route(name="default", match={"prefix": "/"})
    route.route.CopyFrom(
        pb.message("envoy.config.route.v3.RouteAction")(
            cluster=cluster,
            timeout={"seconds": 0},
            idle_timeout={"seconds": 0},
            # A client of gRPC says how long it will wait; nobody works on for one who has gone.
            max_stream_duration={"max_stream_duration": {"seconds": 0}, "grpc_timeout_header_max": {"seconds": 0}},
            # The application never saw such a request.
            retry_policy={"retry_on": "reset-before-request", "num_retries": {"value": 2}},
        )
    )
    return pb.RouteConfiguration(
        name=names.inbound(number),
        virtual_hosts=[{"name": f"inbound|http|{number}", "domains": ["*"], "routes": [route]}],
        validate_clusters={"value": False},
    )


def _imported(scope: Scope, one: EgressListener, wanted: ListenerPort) -> list[tuple[Service, Port]]:
    """The services that a listener's hosts name, each with the port that is meant."""
    found = []
    for service in named(scope, one):
        port = _port(service, wanted)
        if port is not None:
            found.append((service, port))
        elif any(written.rpartition("/")[2] == service.host for written in one.hosts):
            scope.report.warning(
                one.place("hosts"),
                f"{service.host!r} has no {wanted.protocol} port for the listener on {wanted.number}",
                "give the listener the number or the name of the service's port",
            )
    return found


def named(scope: Scope, one: EgressListener) -> list[Service]:
    """The services that a listener's hosts name, by host."""
    patterns = [written.split("/", 1) for written in one.hosts]
    return [
        scope.store.services[host]
        for host in sorted(scope.store.services)
        if scope.store.services[host].is_visible(scope.proxy.namespace)
        and any(
            _matches(namespace, scope.store.services[host].namespace, scope.proxy.namespace)
            and _host_matches(pattern, host)
            for namespace, pattern in patterns
        )
    ]


def _matches(wanted: str, namespace: str, own: str) -> bool:
    return wanted in ("*", namespace) or (wanted == "." and namespace == own)


def _host_matches(pattern: str, host: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return pattern in ("*", host)


def _port(service: Service, wanted: ListenerPort) -> Port | None:
    """By number, else by name, else the only one that speaks HTTP (or does not), or may, as the listener."""
    is_http = wanted.protocol in HTTP_PROTOCOLS
    fitting = [port for port in service.ports if port.is_http == is_http or port.is_sniffed]
    for port in fitting:
        if port.number == wanted.number:
            return port
    for port in fitting:
        if wanted.name and port.name == wanted.name:
            return port
    return fitting[0] if len(fitting) == 1 else None


def _outbound_routes(scope: Scope, number: int, found: Sequence[tuple[Service, Port]]) -> Any:
    made = route_table(str(number))
    for service, port in found:
        host = add_service(scope, made, service, port, names.domains(service, scope.proxy.namespace))
        if len(found) == 1:
            # The application calls 127.0.0.1: whatever it writes as host, one service is meant.
            host.domains.append("*")
    if len(found) != 1:
        made.virtual_hosts.add(
            name="block_all",
            domains=["*"],
            routes=[{"name": "block_all", "match": {"prefix": "/"}, "direct_response": {"status": 502}}],
        )
    return routes.allow_bodies(made)


def sniffed_table(scope: Scope, service: Service, port: Port) -> Any:
    """The routes for the requests among the connections to a port that does not say what is spoken there. Its address
    tells the service, so any host will do.
    """
    table = route_table(f"{service.host}:{port.number}")
    add_service(scope, table, service, port, ["*"])
    return routes.allow_bodies(table)


def route_table(name: str) -> Any:
    """A table for the way out, without hosts."""
    return pb.RouteConfiguration(name=name, validate_clusters=wrapped(False), ignore_port_in_host_matching=True)


def add_service(scope: Scope, table: Any, service: Service, port: Port, domains: Sequence[str]) -> Any:
    """The host of a service in a table."""
    return table.virtual_hosts.add(
        name=f"{service.host}:{port.number}",
        domains=domains,
        routes=service_routes(scope, service, port),
        include_request_attempt_count=True,
    )


def service_routes(scope: Scope, service: Service, port: Port) -> list[Any]:
    """How requests for a port of a service are routed."""
    cluster = scope.use(service, port)
    place = routes.Place(None, port.number, port.number)
    calls = scope.store.mesh_routes(scope.store.grpc_routes, service, port.number, scope.proxy.namespace)
    if calls:
        return grpc_route.grpc_routes(scope, calls)
    bound = scope.store.mesh_routes(scope.store.http_routes, service, port.number, scope.proxy.namespace)
    if bound:
        return http_route.http_routes(scope, bound, place)
    for virtual in scope.store.mesh_virtual_services(service, scope.proxy.namespace):
        # As with Istio, one of which no rule is for this client and port says nothing here: not that there is no way.
        found = routes.virtual_service(scope, virtual, place)
        if found:
            return found
    return [routes.default_route(scope, cluster)]


def _by_server_name(scope: Scope, port: ListenerPort, found: Sequence[tuple[Service, Port]]) -> list[L4Rule]:
    """TLS is told apart by server name where there is more than one way to go; empty if there is not."""
    if port.protocol not in ("TLS", "HTTPS"):
        return []
    rules: list[L4Rule] = []
    is_asked = len(found) > 1
    for service, served in found:
        domains = tuple(names.domains(service, scope.proxy.namespace))
        told = tls_rules(scope, service, served, domains)
        is_asked = is_asked or bool(told)
        rules += told or [L4Rule([(scope.use(service, served), 1)], domains)]
    return rules if is_asked else []


def tls_rules(scope: Scope, service: Service, port: Port, domains: tuple[str, ...]) -> list[L4Rule]:
    """Server names, and where connections for them go, as VirtualServices say. A TLSRoute is for `domains`."""
    place = routes.Place(None, port.number, port.number)
    bound = scope.store.mesh_routes(scope.store.tls_routes, service, port.number, scope.proxy.namespace)
    if bound:
        return [kube_gateway.tcp_rule(scope, route, rule, domains) for route in bound for rule in route.spec.rules]
    virtuals = scope.store.mesh_virtual_services(service, scope.proxy.namespace)
    return [rule for virtual in virtuals for rule in l4.tls_rules(scope, virtual, place)]


def _tcp_rules(scope: Scope, one: EgressListener, number: int, found: Sequence[tuple[Service, Port]]) -> list[L4Rule]:
    """Where connections go. Nothing in them tells services apart, so the listener has exactly one."""
    if len(found) != 1:
        scope.report.warning(
            one.place("hosts"),
            f"the TCP listener on {number} needs exactly one service, not {len(found)}",
            "give each service a listener of its own",
        )
        return []
    return tcp_rules(scope, *found[0])


def tcp_rules(scope: Scope, service: Service, port: Port) -> list[L4Rule]:
    """Where connections to a port of a service go: the last rule is for every destination."""
    place = routes.Place(None, port.number, port.number)
    bound = scope.store.mesh_routes(scope.store.tcp_routes, service, port.number, scope.proxy.namespace)
    if bound:
        return [kube_gateway.tcp_rule(scope, bound[0], bound[0].spec.rules[0])]
    rules: list[L4Rule] = []
    for virtual in scope.store.mesh_virtual_services(service, scope.proxy.namespace):
        for rule in l4.tcp_rules(scope, virtual, place):
            rules.append(rule)
            if not rule.subnets:
                return rules
    return [*rules, L4Rule([(scope.use(service, port, tcp=True), 1)])]
