"""A gateway's listeners and routes, from Istio's Gateways and the Gateway API's.

Both become servers: a bind address and port, hosts, perhaps TLS, and the routes of each host. Servers of
one address without TLS share one listener and one route table; each server with TLS has its own filter
chain, chosen by SNI.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pymesh.control.resources.gateway import Gateway, Server, ServerTls
from pymesh.control.resources.gateway_api import HTTPRoute, KubeGateway, Listener
from pymesh.control.resources.traffic import VirtualService
from pymesh.control.translate import http_route, listeners, names, python_filter, routes, tls
from pymesh.control.translate.scope import Scope
from pymesh.control.xds import pb

_ANY = "0.0.0.0"


@dataclass(slots=True)
class Site:
    """What one server serves."""

    gateway: str
    namespace: str
    name: str
    bind: str
    port: int
    protocol: str
    tls: ServerTls | None
    #: Host -> its routes.
    hosts: dict[str, list[Any]] = field(default_factory=dict)
    #: Clusters by weight, where the protocol is not HTTP.
    shares: list[tuple[str, int]] = field(default_factory=list)
    #: The same by server names, where TLS is passed on.
    passed: list[tuple[tuple[str, ...], list[tuple[str, int]]]] = field(default_factory=list)
    server_names: tuple[str, ...] = ()

    @property
    def terminates(self) -> bool:
        """Whether the site speaks TLS."""
        return self.tls is not None and self.tls.terminates

    @property
    def passes_on(self) -> bool:
        """Whether TLS goes through to whoever is behind."""
        return self.tls is not None and self.tls.mode == "PASSTHROUGH"

    @property
    def is_http(self) -> bool:
        """Whether requests are routed."""
        return self.protocol in ("HTTP", "HTTP2", "GRPC", "HTTPS") and not self.passes_on


def build(scope: Scope) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Listeners, route tables and secrets of the proxy."""
    groups: dict[tuple[str, int], list[Site]] = {}
    for site in _sites(scope):
        groups.setdefault((site.bind, site.port), []).append(site)
    made, tables = [], []
    secrets: dict[str, Any] = {}
    for (bind, port), sites in sorted(groups.items()):
        chains: list[dict[str, Any]] = []
        plain = [site for site in sites if site.is_http and not site.terminates]
        if plain:
            name = f"http.{port}" if bind == _ANY else f"http.{port}.{bind}"
            tables.append(_table(name, plain))
            chains.append(_http_chain(scope, plain[0], name))
        for site in sites:
            if site in plain:
                continue
            if site.is_http:
                name = f"https.{port}.{site.name}.{site.gateway}.{site.namespace}"
                tables.append(_table(name, [site]))
                chains.append(_http_chain(scope, site, name))
            elif site.shares:
                stat_prefix = site.shares[0][0]
                chain: dict[str, Any] = {"filters": [listeners.tcp(scope.store.options, stat_prefix, site.shares)]}
                chains.append(_with_tls(chain, site))
            if site.tls is not None and site.tls.credential_name:
                secret = scope.store.secrets[site.namespace, site.tls.credential_name]
                secrets |= tls.secrets(secret)
        chains += listeners.passed_on(scope.store.options, (rule for site in sites for rule in site.passed))
        if chains:
            made.append(listeners.listener(names.listener(bind, port), bind, port, "OUTBOUND", chains))
    return made, tables, secrets


def _http_chain(scope: Scope, site: Site, table: str) -> dict[str, Any]:
    stat_prefix = f"outbound_{site.bind}_{site.port}"
    filters = python_filter.gateway(scope, site.gateway)
    manager = listeners.http(scope.store.options, stat_prefix, "gateway", table, filters)
    return _with_tls({"filters": [manager]}, site)


def _with_tls(chain: dict[str, Any], site: Site) -> dict[str, Any]:
    if site.tls is None or not site.terminates:
        return chain
    found = {**chain, "transport_socket": tls.server(site.tls, site.namespace)}
    server_names = [host for host in site.server_names if host != "*"]
    return {**found, "filter_chain_match": {"server_names": server_names}} if server_names else found


def _table(name: str, sites: list[Site]) -> Any:
    made = pb.RouteConfiguration(name=name, validate_clusters={"value": False}, ignore_port_in_host_matching=True)
    merged: dict[str, list[Any]] = {}
    redirected = set()
    for site in sites:
        for host, found in site.hosts.items():
            merged.setdefault(host, []).extend(found)
            if site.tls is not None and site.tls.https_redirect:
                redirected.add(host)
    for host, found in sorted(merged.items()):
        made.virtual_hosts.add(
            name=f"{host}:{sites[0].port}",
            domains=[host],
            routes=found,
            include_request_attempt_count=True,
            require_tls="ALL" if host in redirected else "NONE",
        )
    if "*" not in merged:
        made.virtual_hosts.add(
            name="blackhole:" + str(sites[0].port),
            domains=["*"],
            routes=[{"name": "blackhole", "match": {"prefix": "/"}, "direct_response": {"status": 404}}],
        )
    return made


def _sites(scope: Scope) -> Iterator[Site]:
    proxy = scope.proxy
    for gateway in scope.store.gateways:
        if gateway.spec.selector.items() <= proxy.labels.items():
            for number, server in enumerate(gateway.spec.servers):
                yield _istio_site(scope, gateway, server, number)
    wanted = proxy.labels.get(KubeGateway.PROXY_LABEL)
    for kube in scope.store.kube_gateways:
        if kube.name == wanted and kube.namespace == proxy.namespace:
            for listener in kube.spec.listeners:
                yield _kube_site(scope, kube, listener)


def _istio_site(scope: Scope, gateway: Gateway, server: Server, number: int) -> Site:
    port = server.port
    hosts = tuple(host.rpartition("/")[2] for host in server.hosts)
    site = Site(
        gateway.name,
        gateway.namespace,
        port.name or server.name or f"{port.protocol.lower()}-{number}",
        server.bind or _ANY,
        port.number,
        port.protocol,
        server.tls,
        server_names=hosts,
    )
    place = routes.Place((gateway.namespace, gateway.name), port.number, None)
    for virtual in scope.store.virtual_services:
        if not routes.applies_at(virtual.spec.gateways, virtual.namespace, place):
            continue
        common = {host for host, _ in _admitted(server.hosts, gateway, virtual)}
        if not common:
            continue
        if site.passes_on:
            for names, shares in routes.tls_shares(scope, virtual, place):
                site.passed.append((_within(names, common), shares))
            continue
        if not site.is_http:
            for rule in virtual.spec.tcp:
                site.shares = site.shares or routes.tcp_shares(scope, rule, virtual, place)
            continue
        found = routes.virtual_service(scope, virtual, place)
        for host in sorted(common):
            site.hosts.setdefault(host, []).extend(found)
    if server.tls is not None and server.tls.https_redirect and not site.hosts:
        for host in hosts:
            site.hosts[host] = [_nothing()]
    return site


def _nothing() -> Any:
    """A route for a host that only redirects to HTTPS."""
    return pb.Route(name="redirect", match={"prefix": "/"}, direct_response={"status": 404})


def _admitted(hosts: tuple[str, ...], gateway: Gateway, virtual: VirtualService) -> Iterator[tuple[str, str]]:
    """The hosts that a server and a VirtualService share. A server's host may name who may bind to it."""
    for written in hosts:
        namespace, slash, host = written.rpartition("/")
        owner = gateway.namespace if namespace == "." else namespace
        if slash and owner not in ("*", virtual.namespace):
            continue
        for wanted in virtual.spec.hosts:
            shared = intersection(host, wanted)
            if shared is not None:
                yield shared, wanted


def _within(names: tuple[str, ...], hosts: set[str]) -> tuple[str, ...]:
    """The server names of a rule, narrowed to the hosts that the server shares with the VirtualService."""
    shared = (intersection(name, host) for name in names for host in sorted(hosts))
    return tuple(name for name in shared if name is not None)


def intersection(one: str, other: str) -> str | None:
    """The narrower of two host patterns if it is inside the wider one."""
    if one == other or other == "*":
        return one
    if one == "*":
        return other
    for narrow, wide in ((one, other), (other, one)):
        if wide.startswith("*.") and narrow.endswith(wide[1:]):
            return narrow
    return None


def _kube_site(scope: Scope, gateway: KubeGateway, listener: Listener) -> Site:
    server_tls = None
    if listener.tls is not None:
        server_tls = ServerTls(credential_name=listener.tls.certificate_refs[0].name)
    hostname = listener.hostname or "*"
    site = Site(
        gateway.name,
        gateway.namespace,
        listener.name,
        _ANY,
        listener.port,
        listener.protocol,
        server_tls,
        server_names=(hostname,),
    )
    bound: dict[str, list[HTTPRoute]] = {}
    for route in scope.store.http_routes:
        if _bound(route, gateway, listener):
            for wanted in route.spec.hostnames or ("*",):
                shared = intersection(hostname, wanted)
                if shared is not None:
                    bound.setdefault(shared, []).append(route)
    for host, found in bound.items():
        site.hosts[host] = http_route.http_routes(scope, found)
    return site


def _bound(route: HTTPRoute, gateway: KubeGateway, listener: Listener) -> bool:
    if listener.allowed_routes.namespaces.from_ == "Same" and route.namespace != gateway.namespace:
        return False
    return any(
        parent.kind == "Gateway"
        and parent.name == gateway.name
        and (parent.namespace or route.namespace) == gateway.namespace
        and parent.section_name in ("", listener.name)
        and parent.port in (None, listener.port)
        for parent in route.spec.parent_refs
    )
