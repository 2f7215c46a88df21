"""Routes of the Gateway API that ask for the same as an older resource: where they have to stand back.

Decided at each place by itself, for each listener and for each service, so that a route which loses at one of its
parents is in force at the others. What is not there to be used takes nothing from anybody: whoever asks leaves out what
is wrong first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pymesh.control.resources.gateway_api import HTTPRoute, KubeGateway, Listener
from pymesh.control.resources.gateway_routes import GRPCRoute
from pymesh.control.resources.hosts import intersection
from pymesh.control.resources.traffic import VirtualService
from pymesh.control.store.parents import Displaced, Displacements, Place, Route, binds, listener_place
from pymesh.control.store.services import Service

if TYPE_CHECKING:
    from pymesh.control.store.store import Store

#: In ``VirtualService.gateways``: the sidecars.
MESH = "mesh"

_Found = tuple[tuple[str, Place], Displaced]


def displaced(store: Store) -> Displacements:
    """All of them; the first reason of each."""
    found: dict[tuple[str, Place], Displaced] = {}
    for gateway in store.kube_gateways:
        for listener in gateway.spec.listeners:
            for place, one in (*_by_host(store, gateway, listener), *_by_connection(store, gateway, listener)):
                found.setdefault(place, one)
    for host, service in store.services.items():
        first, routes = rivals(store, service)
        if isinstance(first, VirtualService):
            # The oldest decides, whoever wrote it: a newer resource takes no traffic from it.
            for route in routes:
                message = f"{host!r} has both a {type(route).__name__} and a {type(first).__name__}"
                hint = f"keep one of them; the {type(first).__name__} is at {first.at}"
                found.setdefault((route.title, host), Displaced(message, hint, "parentRefs", first.at))
    return found


def rivals(store: Store, service: Service) -> tuple[VirtualService | Route | None, list[Route]]:
    """The oldest of those that say where requests for a service go, if both APIs do; and the routes among them."""
    routes = mesh_routes(store, service)
    virtual = virtual_services(store, service) if routes else []
    both: list[VirtualService | Route] = [*virtual, *routes] if virtual else []
    return min(both, key=lambda one: one.seniority, default=None), routes


def virtual_services(store: Store, service: Service) -> list[VirtualService]:
    """Those for a service that sidecars heed, in whatever namespace they are seen."""
    return [one for one in store.virtual_services if MESH in one.spec.gateways and store.closeness(one, service)]


def mesh_routes(store: Store, service: Service) -> list[Route]:
    """The routes of the Gateway API that have a service for parent."""
    return [
        route
        for route in all_routes(store)
        if any(
            parent.kind == "Service" and store.service(parent.name, parent.namespace or route.namespace) is service
            for parent in route.spec.parent_refs
        )
    ]


def all_routes(store: Store) -> Iterator[Route]:
    """Every route of the Gateway API."""
    yield from store.http_routes
    yield from store.grpc_routes
    yield from store.tls_routes
    yield from store.tcp_routes


def _by_host(store: Store, gateway: KubeGateway, listener: Listener) -> Iterator[_Found]:
    """Whether a request is a call is not known before it is routed, so that one kind of route has each host: by the
    standard that of the oldest, and the other route is refused whole.
    """
    taken: dict[str, HTTPRoute | GRPCRoute] = {}
    routes: list[HTTPRoute | GRPCRoute] = [*store.http_routes, *store.grpc_routes]
    for route in sorted(routes, key=lambda one: one.seniority):
        if not binds(store.namespaces, route, gateway, listener):
            continue
        shared = _shared(route, listener)
        lost = [(host, taken[host]) for host in shared if type(taken.get(host, route)) is not type(route)]
        for host, first in lost:
            message = f"{host!r} at listener {listener.name!r} is that of {first.title} already"
            hint = f"give one of them another hostname; the {type(first).__name__} is at {first.at}"
            yield (route.title, listener_place(gateway, listener)), Displaced(message, hint, "hostnames", first.at)
        if not lost:
            taken |= dict.fromkeys(shared, route)


def _shared(route: HTTPRoute | GRPCRoute, listener: Listener) -> list[str]:
    found = (intersection(listener.hostname or "*", name) for name in route.spec.hostnames or ("*",))
    return [host for host in found if host is not None]


def _by_connection(store: Store, gateway: KubeGateway, listener: Listener) -> Iterator[_Found]:
    bound = [route for route in store.tcp_routes if binds(store.namespaces, route, gateway, listener)]
    for second in bound[1:]:
        message = f"listener {listener.name!r} of {gateway.title} has a TCPRoute already"
        hint = f"nothing tells their connections apart; the other is at {bound[0].at}"
        yield (second.title, listener_place(gateway, listener)), Displaced(message, hint, "parentRefs", bound[0].at)
