"""References of the Gateway API's routes: their parents must take them, and their backends must be there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pymesh.control.resources.diagnostics import Diagnostic, Report, did_you_mean
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
from pymesh.control.store.parents import Displaced, Route, is_admitted, listener_place
from pymesh.control.store.route_conflicts import all_routes
from pymesh.control.store.services import Service

if TYPE_CHECKING:
    from pymesh.control.store.store import Store


def check(store: Store, report: Report) -> None:
    """Report every reference that leads nowhere, and routes that others displace."""
    for route in all_routes(store):
        _parents(store, route, report)
        for rule in route.spec.rules:
            for backend in backends(rule):
                found = report.part()
                check_backend(store, route, backend, found)
                report.add_dangling(found)


def _is_http(route: Route) -> bool:
    return isinstance(route, HTTPRoute | GRPCRoute)


def _hostnames(route: Route) -> tuple[str, ...]:
    names: tuple[str, ...] = getattr(route.spec, "hostnames", ())
    return names


def _parents(store: Store, route: Route, report: Report) -> None:
    """A parent that does not take the route is an error if none does, and else a warning: the others have it."""
    found = [_of_parent(store, route, parent, report.part()) for parent in route.spec.parent_refs]
    is_lost = bool(found) and all(is_refused for is_refused, _ in found)
    for _, one in found:
        report.add(one if is_lost else (replace(each, severity="warning") for each in one))
    if _hostnames(route) and not any(parent.kind == "Gateway" for parent in route.spec.parent_refs):
        report.warning(route.spec.place("hostnames"), "hostnames have no meaning for a Service parent", "remove them")


def _of_parent(store: Store, route: Route, parent: ParentRef, report: Report) -> tuple[bool, tuple[Diagnostic, ...]]:
    """Whether a parent refuses the route, and all that is to be said of it."""
    namespace = parent.namespace or route.namespace
    if parent.kind == "Gateway":
        return _gateway(store, route, parent, namespace, report), report.diagnostics
    found = lookup.service(store, parent, "name", parent.name, namespace, report)
    if found is not None and parent.port is not None:
        lookup.check_port(found, found.port(parent.port), parent, "port", parent.port, _is_http(route), report)
    if found is not None and parent.section_name:
        _check_section(found, parent, _is_http(route), report)
    lost = store.displaced.get((route.title, found.host)) if found is not None else None
    if lost is not None:
        report.error(route.spec.place(lost.field), lost.message, lost.hint, rival=lost.rival)
    return report.failed, report.diagnostics


def _check_section(service: Service, parent: ParentRef, http: bool, report: Report) -> None:
    """A section of a Service is the port of that name; with a number, too, they have to be of the same port."""
    names = {port.name: port for port in service.ports if port.name}
    port = names.get(parent.section_name)
    if port is None:
        hint = did_you_mean(parent.section_name, names)
        report.error(parent.place("sectionName"), f"{service.host!r} has no port {parent.section_name!r}", hint)
    elif parent.port is None:
        lookup.check_port(service, port, parent, "sectionName", port.number, http, report)
    elif parent.port != port.number:
        message = f"port {parent.section_name!r} of {service.host!r} is {port.number}, not {parent.port}"
        report.error(parent.place("sectionName"), message, "remove one of 'port' and 'sectionName'")


def _gateway(store: Store, route: Route, parent: ParentRef, namespace: str, report: Report) -> bool:
    """Whether a Gateway does not take the route at all. One without a hostname in common is not meant, perhaps."""
    gateways = {one.name: one for one in store.kube_gateways if one.namespace == namespace}
    gateway = gateways.get(parent.name)
    if gateway is None:
        report.error(
            parent.place("name"),
            f"there is no Gateway {namespace}/{parent.name}",
            did_you_mean(parent.name, gateways, otherwise="a Gateway of group gateway.networking.k8s.io is meant"),
        )
        return True
    found = refusal(store, route, parent, gateway)
    if found is not None and found.reason == "NoMatchingListenerHostname":
        report.warning(route.spec.place("hostnames"), found.message, found.hint)
        return False
    lost = displaced(store, route, parent, gateway)
    for one in lost:
        report.error(route.spec.place(one.field), one.message, one.hint, rival=one.rival)
    if found is not None and not lost:
        report.error(parent.place(found.field), found.message, found.hint)
    return found is not None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a Gateway does not take a route, in the Gateway API's words and in those for people."""

    reason: Literal[
        "NoMatchingParent", "NotAllowedByListeners", "NoMatchingListenerHostname", "UnsupportedValue", "Pending"
    ]
    message: str
    hint: str = ""
    #: Of the route's reference to the Gateway.
    field: str = ""


def displaced(store: Store, route: Route, parent: ParentRef, gateway: KubeGateway) -> list[Displaced]:
    """What has a route's place at listeners of a Gateway that it names."""
    found = (
        store.displaced.get((route.title, listener_place(gateway, one)))
        for one in gateway.spec.listeners
        if parent.section_name in ("", one.name) and parent.port in (None, one.port)
    )
    return [one for one in found if one is not None]


def refusal(store: Store, route: Route, parent: ParentRef, gateway: KubeGateway) -> Refusal | None:
    """Why a Gateway that a route names does not take it at any listener; None if it does."""
    kind = type(route).__name__
    listeners = [one for one in gateway.spec.listeners if parent.section_name in ("", one.name)]
    ported = [one for one in listeners if parent.port in (None, one.port)]
    of_kind = [one for one in ported if kind in one.kinds]
    admitting = [one for one in of_kind if is_admitted(store.namespaces, route, gateway, one)]
    meeting = [one for one in admitting if _meets(route, one)]
    if not listeners and parent.section_name in gateway.spec.left_out:
        message = f"listener {parent.section_name!r} of {gateway.title} cannot be used"
        return Refusal("Pending", message, "the Gateway's status says why", "sectionName")
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
    if not meeting:
        hosts = ", ".join(one.hostname or "*" for one in admitting)
        message = f"no hostname in common with {gateway.title}: the route is not used there"
        return Refusal("NoMatchingListenerHostname", message, f"its listeners are for {hosts}")
    if not any(store.binds(route, gateway, one) for one in meeting):
        first = displaced(store, route, parent, gateway)[0]
        return Refusal("UnsupportedValue", first.message, first.hint)
    return None


def _meets(route: Route, listener: Listener) -> bool:
    """Whether they have a hostname in common; a route without hostnames has that of the listener."""
    names = _hostnames(route)
    return not names or any(intersection(listener.hostname or "*", name) for name in names)


def backends(rule: RouteRule | GrpcRule | L4Rule) -> Iterator[Backend]:
    """Where a rule sends traffic, and copies of it."""
    yield from rule.backend_refs
    yield from (copy.backend_ref for copy in mirrors(getattr(rule, "filters", ())))


#: Why a backend cannot be used, in the Gateway API's words.
Unresolved = Literal["InvalidKind", "RefNotPermitted", "BackendNotFound", "UnsupportedProtocol"]


def check_backend(store: Store, route: Route, backend: Backend, report: Report) -> Unresolved | None:
    """Report a backend that leads nowhere, or may not be referred to; the reason."""
    kind, owner = type(route).__name__, backend.namespace or route.namespace
    if not backend.is_service:
        shown = f"{backend.kind}.{backend.group}" if backend.group else backend.kind
        place = backend.place("kind" if backend.kind != "Service" else "group")
        report.error(place, f"backends of kind {shown!r} are not supported", "name a Service")
        return "InvalidKind"
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
    # The standard knows appProtocol alone. Where that is silent, whatever Istio reads in a port's name, it is the route
    # that says what is spoken: HTTP. A call needs HTTP/2, though: a port that is said to be TCP is not spoken to so.
    is_asked = isinstance(route, GRPCRoute) or (isinstance(route, HTTPRoute) and port is not None and port.is_declared)
    is_good = lookup.check_port(found, port, backend, "port", backend.port, is_asked, report)
    return None if is_good else "BackendNotFound" if port is None else "UnsupportedProtocol"
