"""References of the Gateway API's routes: their parents must take them, and their backends must be there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pymesh.control.resources.diagnostics import Report, did_you_mean
from pymesh.control.resources.gateway_api import (
    GROUP,
    Backend,
    HTTPRoute,
    KubeGateway,
    Listener,
    ParentRef,
    RouteRule,
    mirrors,
)
from pymesh.control.resources.gateway_routes import GRPCRoute, GrpcRule, L4Rule
from pymesh.control.resources.hosts import intersection
from pymesh.control.store import lookup
from pymesh.control.store.namespaces import Namespaces
from pymesh.control.store.parents import Route, binds, is_admitted
from pymesh.control.store.services import Service

if TYPE_CHECKING:
    from pymesh.control.store.store import Store


def check(store: Store, report: Report) -> None:
    """Report every reference that leads nowhere, and routes that take each other's traffic."""
    for route in all_routes(store):
        _parents(store, route, report)
        for rule in route.spec.rules:
            for backend in backends(rule):
                check_backend(store, route, backend, report)
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
    if gateway is None:
        report.error(
            parent.place("name"),
            f"there is no Gateway {namespace}/{parent.name}",
            did_you_mean(parent.name, gateways, otherwise="a Gateway of group gateway.networking.k8s.io is meant"),
        )
        return
    found = refusal(store.namespaces, route, parent, gateway)
    if found is not None and found.reason == "NoMatchingListenerHostname":
        report.warning(route.spec.place("hostnames"), found.message, found.hint)
    elif found is not None:
        report.error(parent.place(found.field), found.message, found.hint)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a Gateway does not take a route, in the Gateway API's words and in those for people."""

    reason: Literal["NoMatchingParent", "NotAllowedByListeners", "NoMatchingListenerHostname"]
    message: str
    hint: str = ""
    #: Of the route's reference to the Gateway.
    field: str = ""


def refusal(namespaces: Namespaces, route: Route, parent: ParentRef, gateway: KubeGateway) -> Refusal | None:
    """Why a Gateway that a route names does not take it; None if it does."""
    kind = type(route).__name__
    listeners = [one for one in gateway.spec.listeners if parent.section_name in ("", one.name)]
    ported = [one for one in listeners if parent.port in (None, one.port)]
    of_kind = [one for one in ported if kind in one.kinds]
    admitting = [one for one in of_kind if is_admitted(namespaces, route, gateway, one)]
    names = _hostnames(route)
    if not listeners:
        message = f"{gateway.title} has no listener {parent.section_name!r}"
        known = [one.name for one in gateway.spec.listeners]
        return Refusal("NoMatchingParent", message, did_you_mean(parent.section_name, known), "sectionName")
    if not ported:
        message = f"{gateway.title} has no such listener on port {parent.port}"
        return Refusal("NoMatchingParent", message, field="port")
    if not of_kind:
        message = f"no listener of {gateway.title} that is meant takes kind {kind}"
        return Refusal(
            "NotAllowedByListeners", message, "see the listener's protocol and allowedRoutes.kinds", field="name"
        )
    if not admitting:
        message = f"{gateway.title} takes no routes of namespace {route.namespace!r}"
        hint = "set allowedRoutes.namespaces on the listener; from: All lets every namespace in"
        if any(one.allowed_routes.namespaces.selector is not None for one in of_kind):
            hint = "give the namespace the labels that allowedRoutes.namespaces.selector of the listener asks for"
        return Refusal("NotAllowedByListeners", message, hint, field="namespace")
    if names and not any(intersection(one.hostname or "*", name) for one in admitting for name in names):
        hosts = ", ".join(one.hostname or "*" for one in admitting)
        message = f"no hostname in common with {gateway.title}: the route is not used there"
        return Refusal("NoMatchingListenerHostname", message, f"its listeners are for {hosts}")
    return None


def backends(rule: RouteRule | GrpcRule | L4Rule) -> Iterator[Backend]:
    """Where a rule sends traffic, and copies of it."""
    yield from rule.backend_refs
    yield from (copy.backend_ref for copy in mirrors(getattr(rule, "filters", ())))


#: Why a backend cannot be used, in the Gateway API's words.
Unresolved = Literal["RefNotPermitted", "BackendNotFound", "UnsupportedProtocol"]


def check_backend(store: Store, route: Route, backend: Backend, report: Report) -> Unresolved | None:
    """Report a backend that leads nowhere, or may not be referred to; the reason."""
    kind, owner = type(route).__name__, backend.namespace or route.namespace
    if not store.is_granted(GROUP, kind, route.namespace, "Service", owner, backend.name):
        report.error(
            backend.place("namespace"),
            f"namespace {owner!r} does not let a {kind} of {route.namespace!r} refer to its Service {backend.name!r}",
            f"write a ReferenceGrant there, from {kind} in {route.namespace!r} to Service",
        )
        return "RefNotPermitted"
    found = lookup.service(store, backend, "name", backend.name, owner, report)
    if found is None:
        return "BackendNotFound"
    if backend.port is None:
        report.error(backend.at, f"the backend {backend.name!r} needs a port")
        return "BackendNotFound"
    port = found.port(backend.port)
    is_good = lookup.check_port(found, port, backend, "port", backend.port, _is_http(route), report)
    return None if is_good else "BackendNotFound" if port is None else "UnsupportedProtocol"


def _one_kind_for_each_host(store: Store, gateway: KubeGateway, listener: Listener, report: Report) -> None:
    """Whether a request is a call is not known before it is routed, so that one kind of route has each host: by the
    standard that of the oldest.
    """
    taken: dict[str, HTTPRoute | GRPCRoute] = {}
    routes: list[HTTPRoute | GRPCRoute] = [*store.http_routes, *store.grpc_routes]
    for route in sorted(routes, key=lambda one: one.seniority):
        if not binds(store.namespaces, route, gateway, listener):
            continue
        shared = _shared(route, listener)
        lost = [(host, taken[host]) for host in shared if type(taken.get(host, route)) is not type(route)]
        for host, first in lost:
            report.error(
                route.spec.place("hostnames"),
                f"{host!r} at listener {listener.name!r} is that of {first.title} already",
                f"give one of them another hostname; the {type(first).__name__} is at {first.at}",
            )
        if not lost:
            taken |= dict.fromkeys(shared, route)


def _shared(route: HTTPRoute | GRPCRoute, listener: Listener) -> list[str]:
    found = (intersection(listener.hostname or "*", name) for name in route.spec.hostnames or ("*",))
    return [host for host in found if host is not None]


def _one_route_for_connections(store: Store, gateway: KubeGateway, listener: Listener, report: Report) -> None:
    bound = [route for route in store.tcp_routes if binds(store.namespaces, route, gateway, listener)]
    for second in bound[1:]:
        report.error(
            second.spec.place("parentRefs"),
            f"listener {listener.name!r} of {gateway.title} has a TCPRoute already",
            f"nothing tells their connections apart; the other is at {bound[0].at}",
        )
