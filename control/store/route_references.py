"""References of the Gateway API's routes: their parents must take them, and their backends must be there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pymesh.control.resources.diagnostics import Report, did_you_mean
from pymesh.control.resources.gateway_api import (
    GROUP,
    Backend,
    HTTPRoute,
    KubeGateway,
    Listener,
    ParentRef,
    mirrors,
)
from pymesh.control.resources.gateway_routes import GRPCRoute
from pymesh.control.resources.hosts import intersection
from pymesh.control.store import lookup
from pymesh.control.store.parents import Route, binds
from pymesh.control.store.services import Service

if TYPE_CHECKING:
    from pymesh.control.store.store import Store


def check(store: Store, report: Report) -> None:
    """Report every reference that leads nowhere, and routes that take each other's traffic."""
    for route in all_routes(store):
        _parents(store, route, report)
        for rule in route.spec.rules:
            for backend in rule.backend_refs:
                _backend(store, route, backend, report)
            for copy in mirrors(getattr(rule, "filters", ())):
                _backend(store, route, copy.backend_ref, report)
    for gateway in store.kube_gateways:
        for listener in gateway.spec.listeners:
            _one_kind_for_each_host(store, gateway, listener, report)
            _one_route_for_connections(store, gateway, listener, report)


def all_routes(store: Store) -> Iterator[Route]:
    """Every route of the Gateway API."""
    yield from store.http_routes
    yield from store.grpc_routes
    yield from store.tls_routes
    yield from store.tcp_routes


def mesh_routes(store: Store, service: Service) -> list[Route]:
    """Those that have a service for parent."""
    return [
        route
        for route in all_routes(store)
        if any(
            parent.kind == "Service" and store.service(parent.name, parent.namespace or route.namespace) is service
            for parent in route.spec.parent_refs
        )
    ]


def _is_http(route: Route) -> bool:
    return isinstance(route, HTTPRoute | GRPCRoute)


def _hostnames(route: Route) -> tuple[str, ...]:
    names: tuple[str, ...] = getattr(route.spec, "hostnames", ())
    return names


def _parents(store: Store, route: Route, report: Report) -> None:
    for parent in route.spec.parent_refs:
        namespace = parent.namespace or route.namespace
        if parent.kind == "Gateway":
            _gateway(store, route, parent, namespace, report)
            continue
        if parent.section_name:
            report.error(parent.place("sectionName"), "a Service has no sections", "name its port with `port`")
        found = lookup.service(store, parent, "name", parent.name, namespace, report)
        if found is not None and parent.port is not None:
            lookup.check_port(found, found.port(parent.port), parent, "port", parent.port, _is_http(route), report)
    if _hostnames(route) and not any(parent.kind == "Gateway" for parent in route.spec.parent_refs):
        report.warning(route.spec.place("hostnames"), "hostnames have no meaning for a Service parent", "remove them")


def _gateway(store: Store, route: Route, parent: ParentRef, namespace: str, report: Report) -> None:
    gateways = {one.name: one for one in store.kube_gateways if one.namespace == namespace}
    gateway = gateways.get(parent.name)
    kind = type(route).__name__
    if gateway is None:
        report.error(
            parent.place("name"),
            f"there is no Gateway {namespace}/{parent.name}",
            did_you_mean(parent.name, gateways, otherwise="a Gateway of group gateway.networking.k8s.io is meant"),
        )
        return
    listeners = [one for one in gateway.spec.listeners if parent.section_name in ("", one.name)]
    ported = [one for one in listeners if parent.port in (None, one.port)]
    of_kind = [one for one in ported if kind in one.kinds]
    admitting = [one for one in of_kind if one.allowed_routes.namespaces.admits(route.namespace, namespace)]
    names = _hostnames(route)
    if not listeners:
        report.error(
            parent.place("sectionName"),
            f"{gateway.title} has no listener {parent.section_name!r}",
            did_you_mean(parent.section_name, [one.name for one in gateway.spec.listeners]),
        )
    elif not ported:
        report.error(parent.place("port"), f"{gateway.title} has no such listener on port {parent.port}")
    elif not of_kind:
        report.error(
            parent.place("name"),
            f"no listener of {gateway.title} that is meant takes kind {kind}",
            "see the listener's protocol and allowedRoutes.kinds",
        )
    elif not admitting:
        report.error(
            parent.place("namespace"),
            f"{gateway.title} takes no routes of namespace {route.namespace!r}",
            "set allowedRoutes.namespaces on the listener; from: All lets every namespace in",
        )
    elif names and not any(intersection(one.hostname or "*", name) for one in admitting for name in names):
        hosts = ", ".join(one.hostname or "*" for one in admitting)
        report.warning(
            route.spec.place("hostnames"),
            f"no hostname in common with {gateway.title}: the route is not used there",
            f"its listeners are for {hosts}",
        )


def _backend(store: Store, route: Route, backend: Backend, report: Report) -> None:
    kind, owner = type(route).__name__, backend.namespace or route.namespace
    if not store.is_granted(GROUP, kind, route.namespace, "Service", owner, backend.name):
        report.error(
            backend.place("namespace"),
            f"namespace {owner!r} does not let a {kind} of {route.namespace!r} refer to its Service {backend.name!r}",
            f"write a ReferenceGrant there, from {kind} in {route.namespace!r} to Service",
        )
        return
    found = lookup.service(store, backend, "name", backend.name, owner, report)
    if found is None:
        return
    if backend.port is None:
        report.error(backend.at, f"the backend {backend.name!r} needs a port")
    else:
        port = found.port(backend.port)
        lookup.check_port(found, port, backend, "port", backend.port, _is_http(route), report)


def _one_kind_for_each_host(store: Store, gateway: KubeGateway, listener: Listener, report: Report) -> None:
    """Whether a request is a call is not known before it is routed, so that one kind of route has each host."""
    taken: dict[str, HTTPRoute] = {}
    for route in store.http_routes:
        if binds(route, gateway, listener):
            taken |= dict.fromkeys(_shared(route, listener), route)
    for call in store.grpc_routes:
        if not binds(call, gateway, listener):
            continue
        for host in _shared(call, listener):
            if host in taken:
                report.error(
                    call.spec.place("hostnames"),
                    f"{host!r} at listener {listener.name!r} has an HTTPRoute already",
                    f"give the calls another hostname; the HTTPRoute is at {taken[host].at}",
                )


def _shared(route: HTTPRoute | GRPCRoute, listener: Listener) -> list[str]:
    found = (intersection(listener.hostname or "*", name) for name in route.spec.hostnames or ("*",))
    return [host for host in found if host is not None]


def _one_route_for_connections(store: Store, gateway: KubeGateway, listener: Listener, report: Report) -> None:
    bound = [route for route in store.tcp_routes if binds(route, gateway, listener)]
    for second in bound[1:]:
        report.error(
            second.spec.place("parentRefs"),
            f"listener {listener.name!r} of {gateway.title} has a TCPRoute already",
            f"nothing tells their connections apart; the other is at {bound[0].at}",
        )
