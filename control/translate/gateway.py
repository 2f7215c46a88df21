"""A gateway's listeners and routes, from Istio's Gateways and the Gateway API's.

Both become servers: a bind address and port, hosts, perhaps TLS, and the routes of each host. Servers of
one address without TLS share one listener and one route table; each server with TLS has its own filter
chain, chosen by SNI.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pymesh.control.resources import visibility
from pymesh.control.resources.gateway import Gateway, Server
from pymesh.control.resources.hosts import intersection
from pymesh.control.resources.traffic import VirtualService
from pymesh.control.store import credentials
from pymesh.control.translate import (
    access,
    application,
    kube_gateway,
    l4,
    listeners,
    names,
    routes,
    selected_filters,
    tls,
)
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.site import ANY_ADDRESS, Site
from pymesh.control.xds import pb


def build(scope: Scope) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Listeners, route tables and secrets of the proxy."""
    groups: dict[tuple[str, int], list[Site]] = {}
    for site in _sites(scope):
        groups.setdefault((site.bind, site.listens_at), []).append(site)
    made, tables = [], []
    secrets: dict[str, Any] = {}
    for (bind, port), sites in sorted(groups.items()):
        chains: list[dict[str, Any]] = []
        claimed = _Claimed(scope)
        plain = [site for site in sites if site.is_http and not site.terminates]
        if plain and claimed.whole({}, plain[0]):
            name = f"http.{port}" if bind == ANY_ADDRESS else f"http.{port}.{bind}"
            tables.append(_table(name, plain))
            chains.append(_http_chain(scope, plain[0], name))
        for site in sites:
            if site in plain:
                continue
            if site.is_http:
                free = claimed.chains([_with_tls(scope, {}, site)], site)
                if free:
                    name = f"https.{site.port}.{site.name}.{site.gateway}.{site.namespace}"
                    tables.append(_table(name, [site]))
                    chains.append({**_http_chain(scope, site, name), **free[0]})
            elif not site.passes_on:
                found = _guarded(scope, site, listeners.l4(scope, site.rules))
                chains += claimed.chains([_with_tls(scope, chain, site) for chain in found], site)
            for namespace, credential in site.secrets:
                told = credentials.find(scope.store.secrets, namespace, credential)
                secrets |= tls.secrets(namespace, credential, told) if told is not None else {}
        for site in sites:
            for rule in site.rules if site.passes_on else ():
                found = _guarded(scope, site, listeners.l4(scope, [rule], tls=True))
                chains += claimed.chains(found, site)
        if chains:
            made.append(listeners.listener(names.listener(bind, port), bind, port, "OUTBOUND", chains))
    return made, tables, secrets


@dataclass(slots=True)
class _Claimed:
    """What the chains of one listener are for. Two for the same would make the listener useless: the first has it."""

    scope: Scope
    taken: dict[tuple[str, str], Site] = field(default_factory=dict)

    def whole(self, match: dict[str, Any], site: Site) -> bool:
        """Whether a chain with this match, apart from server names, is free; it is taken then."""
        return self._take(match, "*", site)

    def chains(self, found: list[dict[str, Any]], site: Site) -> list[dict[str, Any]]:
        """What is left of the site's chains."""
        left = []
        for chain in found:
            match = chain.get("filter_chain_match", {})
            wanted = match.get("server_names", [])
            free = [name for name in wanted or ["*"] if self._take(match, name, site)]
            if free and wanted:
                left.append({**chain, "filter_chain_match": {**match, "server_names": free}})
            elif free:
                left.append(chain)
        return left

    def _take(self, match: dict[str, Any], name: str, site: Site) -> bool:
        # Whoever asks for a server name speaks TLS, whether or not the match says so.
        secured = match.get("transport_protocol", "") if name == "*" else ""
        mark = (name, f"{secured} {match.get('prefix_ranges', [])}")
        first = self.taken.get(mark)
        if first is None:
            self.taken[mark] = site
        elif first is not site:
            what = "every host" if name == "*" else f"host {name!r}"
            self.scope.report.warning(
                site.at,
                f"{what} on port {site.port} is taken by Gateway {first.namespace}/{first.gateway} at {first.at}",
                "give each its own hosts, bind address or port",
            )
        return first is None


def _http_chain(scope: Scope, site: Site, table: str) -> dict[str, Any]:
    stat_prefix = f"outbound_{site.bind}_{site.listens_at}"
    filters = selected_filters.gateway(scope, site.gateway, site.port)
    manager = listeners.http(scope, stat_prefix, "gateway", table, filters)
    return {"filters": [manager]}


def _guarded(scope: Scope, site: Site, chains: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Chains for connections, behind the filters that decide who may connect."""
    guards = access.gateway_tcp(scope, site.gateway)
    return [{**chain, "filters": [*guards, *chain["filters"]]} for chain in chains]


def _with_tls(scope: Scope, chain: dict[str, Any], site: Site) -> dict[str, Any]:
    if site.tls is None or not site.terminates:
        return chain
    transport = tls.server(site.tls, site.secrets, scope.proxy, scope.store.options.trust_domain)
    found = {**chain, "transport_socket": transport}
    match = chain.get("filter_chain_match", {})
    server_names = match.get("server_names") or [host for host in site.server_names if host != "*"]
    if server_names:
        found["filter_chain_match"] = {**match, "server_names": server_names}
    return found


def _table(name: str, sites: list[Site]) -> Any:
    made = pb.RouteConfiguration(name=name, validate_clusters={"value": False}, ignore_port_in_host_matching=True)
    merged: dict[str, list[Any]] = {}
    redirected = set()
    for site in sites:
        for host, found in _own_hosts(site, sites).items():
            here = merged.setdefault(host, [])
            # Two servers may admit one VirtualService for the same host.
            here += [route for route in found if route not in here] if here else found
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
    return routes.allow_bodies(made)


def _own_hosts(site: Site, beside: list[Site]) -> dict[str, list[Any]]:
    """The hosts of a listener without those that are for a closer one; its own pattern at least answers 404."""
    own = site.listener_host
    others = {one.listener_host for one in beside} - {own, ""}
    if not own or not others:
        return site.hosts
    closer = [one for one in others if intersection(one, own) == one]
    found = {
        host: routes_of
        for host, routes_of in site.hosts.items()
        if not any(intersection(host, one) == host for one in closer)
    }
    if len(closer) < len(others):
        found.setdefault(own, [])
    return found


def _sites(scope: Scope) -> Iterator[Site]:
    proxy = scope.proxy
    for gateway in scope.store.gateways:
        if gateway.spec.selector.items() <= proxy.labels.items():
            for number, server in enumerate(gateway.spec.servers):
                site = _istio_site(scope, gateway, server, number)
                if site.secrets and gateway.namespace != proxy.namespace:
                    scope.report.warning(
                        server.at,
                        f"the certificates of Gateway {gateway.namespace}/{gateway.name} are not for gateways of "
                        f"namespace {proxy.namespace!r}: {proxy.name} does not serve {site.name!r}",
                        "put the Gateway and its Secrets into the namespace where the gateway runs",
                    )
                    continue
                for bound in application.bound(scope.store, proxy, site.port):
                    yield replace(site, bound=bound)
    yield from kube_gateway.sites(scope)


def _istio_site(scope: Scope, gateway: Gateway, server: Server, number: int) -> Site:
    port = server.port
    hosts = tuple(host.rpartition("/")[2] for host in server.hosts)
    site = Site(
        gateway.name,
        gateway.namespace,
        port.name or server.name or f"{port.protocol.lower()}-{number}",
        server.bind or ANY_ADDRESS,
        port.number,
        port.protocol,
        server.tls,
        server_names=hosts,
        secrets=tuple((gateway.namespace, name) for name in (server.tls.credentials if server.tls else ())),
        at=server.at,
    )
    # As with Istio, a destination without a port means the server's own number where its service has several.
    place = routes.Place((gateway.namespace, gateway.name), port.number, port.number, site.terminates)
    for virtual in scope.store.virtual_services:
        if not routes.applies_at(virtual.spec.gateways, virtual.namespace, place):
            continue
        if not visibility.sees(scope.proxy.namespace, virtual.spec.export_to, virtual.namespace):
            continue
        common = set(_admitted(scope, server.hosts, gateway, virtual))
        if not common:
            continue
        if site.passes_on:
            for rule in l4.tls_rules(scope, virtual, place):
                shared = _within(rule.server_names, common)
                site.rules += [replace(rule, server_names=shared)] if shared else []
            continue
        if not site.is_http:
            site.rules += l4.tcp_rules(scope, virtual, place)
            continue
        found = routes.virtual_service(scope, virtual, place)
        for host in sorted(common):
            site.hosts.setdefault(host, []).extend(found)
    site.hosts = {host: routes.sorted_catch_all_last(found) for host, found in site.hosts.items()}
    if server.tls is not None and server.tls.https_redirect and not site.hosts:
        for host in hosts:
            site.hosts[host] = [_nothing()]
    return site


def _nothing() -> Any:
    """A route for a host that only redirects to HTTPS."""
    return pb.Route(name="redirect", match={"prefix": "/"}, direct_response={"status": 404})


def _admitted(scope: Scope, hosts: tuple[str, ...], gateway: Gateway, virtual: VirtualService) -> Iterator[str]:
    """The hosts that a server and a VirtualService share. A server's host may name who may bind to it."""
    for written in hosts:
        namespace, slash, host = written.rpartition("/")
        owner = gateway.namespace if namespace == "." else namespace
        if slash and owner not in ("*", virtual.namespace):
            continue
        for wanted in virtual.spec.hosts:
            # A short name stands for the service of that name in the VirtualService's namespace, if there is one.
            service = scope.store.service(wanted, virtual.namespace) if "." not in wanted else None
            shared = intersection(host, service.host if service else wanted)
            if shared is not None:
                yield shared


def _within(names: tuple[str, ...], hosts: set[str]) -> tuple[str, ...]:
    """The server names of a rule, narrowed to the hosts that the server shares with the VirtualService."""
    shared = (intersection(name, host) for name in names for host in sorted(hosts))
    return tuple(name for name in shared if name is not None)
