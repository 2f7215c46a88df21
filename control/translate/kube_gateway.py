"""What the Gateway API's Gateways serve: for each listener its hosts and their routes, or where connections go.

A request belongs to the listener with the closest host name, and there to the closest host name of a route; if none of
those routes match, to those of the next wider name of the same listener.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pymesh.control.resources.gateway import ServerTls
from pymesh.control.resources.gateway_api import HTTPRoute, KubeGateway, Listener
from pymesh.control.resources.gateway_routes import GRPCRoute, TCPRoute, TLSRoute
from pymesh.control.resources.gateway_routes import L4Rule as RouteRule
from pymesh.control.resources.hosts import intersection
from pymesh.control.translate import backends, grpc_route, http_route
from pymesh.control.translate.l4 import L4Rule
from pymesh.control.translate.routes import Place
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.site import ANY_ADDRESS, Site

R = TypeVar("R", HTTPRoute, GRPCRoute, TLSRoute)


def sites(scope: Scope) -> Iterator[Site]:
    """The listeners that this proxy runs."""
    wanted = scope.proxy.labels.get(KubeGateway.PROXY_LABEL)
    for kube in scope.store.kube_gateways:
        if kube.name == wanted and kube.namespace == scope.proxy.namespace:
            for listener in kube.spec.listeners:
                yield _site(scope, kube, listener)


def tcp_rule(scope: Scope, route: TCPRoute | TLSRoute, rule: RouteRule, names: tuple[str, ...] = ()) -> L4Rule:
    """Where connections go."""
    shares = [(backends.cluster(scope, route, one, tcp=True), one.weight) for one in rule.backend_refs if one.weight]
    return L4Rule(shares, names)


def _site(scope: Scope, gateway: KubeGateway, listener: Listener) -> Site:
    server_tls = None
    if listener.passes_on:
        server_tls = ServerTls(mode="PASSTHROUGH")
    elif listener.tls is not None:
        server_tls = ServerTls(credential_names=tuple(one.name for one in listener.tls.certificate_refs))
    hostname = listener.hostname or "*"
    site = Site(
        gateway.name,
        gateway.namespace,
        listener.name,
        ANY_ADDRESS,
        listener.port,
        listener.protocol,
        server_tls,
        server_names=(hostname,),
        secrets=_secrets(gateway, listener),
        listener_host=hostname,
        at=listener.at,
    )
    if site.is_http:
        site.hosts = _hosts(scope, gateway, listener, hostname, site.terminates)
        return site
    # Where TLS ends at the listener, a TLSRoute has the server names that it asks for, and a TCPRoute the others.
    for host, found in _by_host(scope, scope.store.tls_routes, gateway, listener, hostname).items():
        site.rules += [tcp_rule(scope, route, rule, (host,)) for route in found for rule in route.spec.rules]
    bound = [route for route in scope.store.tcp_routes if scope.store.binds(route, gateway, listener)]
    site.rules += [tcp_rule(scope, route, rule) for route in bound for rule in route.spec.rules]
    return site


def _secrets(gateway: KubeGateway, listener: Listener) -> tuple[tuple[str, str], ...]:
    references = listener.tls.certificate_refs if listener.tls else ()
    return tuple((one.namespace or gateway.namespace, one.name) for one in references)


def _hosts(
    scope: Scope, gateway: KubeGateway, listener: Listener, hostname: str, terminates: bool
) -> dict[str, list[Any]]:
    place = Place((gateway.namespace, gateway.name), listener.port, None, terminates)
    http = _by_host(scope, scope.store.http_routes, gateway, listener, hostname)
    grpc = _by_host(scope, scope.store.grpc_routes, gateway, listener, hostname)
    found: dict[str, list[Any]] = {}
    for host in dict.fromkeys((*http, *grpc)):
        wider = [one for one in dict.fromkeys((*http, *grpc)) if intersection(host, one) == host]
        here = found.setdefault(host, [])
        done: set[int] = set()
        for one in sorted(wider, key=lambda name: ("*" not in name, len(name)), reverse=True):
            # A route that has both names has had its turn.
            calls = [route for route in grpc.get(one, ()) if id(route) not in done]
            requests = [route for route in http.get(one, ()) if id(route) not in done]
            done.update(id(route) for route in (*calls, *requests))
            here += grpc_route.grpc_routes(scope, calls)
            here += http_route.http_routes(scope, requests, place, host)
    return found


def _by_host(
    scope: Scope, written: Sequence[R], gateway: KubeGateway, listener: Listener, hostname: str
) -> dict[str, list[R]]:
    """The bound routes for each host name that they share with the listener."""
    found: dict[str, list[R]] = {}
    for route in written:
        if not scope.store.binds(route, gateway, listener):
            continue
        for wanted in route.spec.hostnames or ("*",):
            shared = intersection(hostname, wanted)
            if shared is not None and route not in found.setdefault(shared, []):
                found[shared].append(route)
    return found
