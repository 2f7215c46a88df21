"""Which routes of the Gateway API are bound to a listener, and which to a service.

A route may have several parents, and each of them takes it or not: what one refuses is in force at the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pymesh.control.resources.diagnostics import Position
from pymesh.control.resources.gateway_api import HTTPRoute, KubeGateway, Listener, ParentRef
from pymesh.control.resources.gateway_routes import GRPCRoute, TCPRoute, TLSRoute
from pymesh.control.store.namespaces import Namespaces
from pymesh.control.store.services import Port, Service

Route = HTTPRoute | GRPCRoute | TLSRoute | TCPRoute
R = TypeVar("R", HTTPRoute, GRPCRoute, TLSRoute, TCPRoute)

#: A listener (of a Gateway's namespace and name), or a service by its host.
Place = tuple[str, str, str] | str


@dataclass(frozen=True, slots=True)
class Displaced:
    """An older resource has what a route asks for at one place."""

    message: str
    hint: str
    #: Of the route's spec.
    field: str
    #: Where the older resource is.
    rival: Position


#: Title of a route and the place where it has to stand back.
Displacements = Mapping[tuple[str, Place], Displaced]


def listener_place(gateway: KubeGateway, listener: Listener) -> Place:
    """As displacements know it."""
    return gateway.namespace, gateway.name, listener.name


def binds(namespaces: Namespaces, route: Route, gateway: KubeGateway, listener: Listener) -> bool:
    """Whether a route asks for a listener that takes its kind and its namespace.

    That an older one may have displaced it is :meth:`Store.binds`' business.
    """
    if type(route).__name__ not in listener.kinds:
        return False
    if not is_admitted(namespaces, route, gateway, listener):
        return False
    return any(
        parent.kind == "Gateway"
        and parent.name == gateway.name
        and (parent.namespace or route.namespace) == gateway.namespace
        and parent.section_name in ("", listener.name)
        and parent.port in (None, listener.port)
        for parent in route.spec.parent_refs
    )


def is_admitted(namespaces: Namespaces, route: Route, gateway: KubeGateway, listener: Listener) -> bool:
    """Whether a listener takes routes of the namespace that a route is in."""
    labels = namespaces.labels(route.namespace)
    return listener.allowed_routes.namespaces.admits(route.namespace, labels, gateway.namespace)


def is_for_port(parent: ParentRef, port: Port) -> bool:
    """Whether a reference to a service means this port of it: by its number, and by its name, which is the section."""
    return parent.port in (None, port.number) and parent.section_name in ("", port.name)


def for_service(
    written: Sequence[R], service: Service, port: int, namespace: str, named: Callable[[str, str], Service | None]
) -> list[R]:
    """The routes that clients in ``namespace`` apply to requests for a port of a service.

    A route of the service's own namespace is for everybody. One of another namespace is for the clients there, and
    takes the place of those.
    """
    known = service.port(port)
    bound = [
        route
        for route in written
        if any(
            parent.kind == "Service"
            and known is not None
            and is_for_port(parent, known)
            and named(parent.name, parent.namespace or route.namespace) is service
            for parent in route.spec.parent_refs
        )
    ]
    own = [route for route in bound if route.namespace == namespace]
    return own or [route for route in bound if route.namespace == service.namespace]
