"""The status of the Gateway API's Gateways and of their class.

A Gateway is run by the proxies whose label names it, in its namespace; where it is reached say the Services that select
those. It is `Programmed` when there is such an address and a proxy behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.gateway_api import (
    GROUP,
    Conflict,
    KubeGateway,
    Listener,
    conflicts,
    possible_kinds,
)
from pymesh.control.resources.hosts import intersection
from pymesh.control.resources.kubernetes import is_ip
from pymesh.control.status.conditions import Condition, merged, told
from pymesh.control.status.objects import Json, Object
from pymesh.control.store import credentials
from pymesh.control.store.parents import Route
from pymesh.control.store.route_conflicts import all_routes
from pymesh.control.store.store import Store

#: Who we are in statuses; the GatewayClass names it.
CONTROLLER: Final = "pymesh.dev/gateway-controller"
#: The GatewayClass that we serve.
CLASS: Final = "pymesh"
_ACCEPTED: Final = Condition("Accepted", True, "Accepted")


def class_status(found: Object, now: datetime) -> Json:
    """Of a GatewayClass that names us."""
    accepted = Condition("Accepted", True, "Accepted", "pymesh runs Gateways of this class")
    if found.name != CLASS:
        accepted = Condition("Accepted", False, "Unsupported", f"the class of this mesh is named {CLASS!r}")
    return {"conditions": merged(found.status.get("conditions"), [accepted], found.generation, now)}


def gateway_status(
    store: Store, found: Object, services: Sequence[Object], now: datetime, routes: Iterable[Route] | None = None
) -> Json:
    """Of a Gateway of our class; ``services`` are all Services, ``routes`` all that can be read (else those in force):
    a route is attached to the listener that it asks for, whatever else keeps either from being used.
    """
    before = found.status.get("conditions")
    gateway = found.in_force if found.errors else found.resource
    text = told(found.errors)
    refused = [Condition(one, False, "Invalid", text) for one in ("Accepted", "Programmed")]
    asking = list(all_routes(store) if routes is None else routes)

    def attached(owner: KubeGateway, one: Listener) -> int:
        return sum(_attaches(store, route, owner, one) for route in asking)

    written = found.resource if isinstance(found.resource, KubeGateway) else None
    readable = {one.name: one for one in written.spec.listeners} if written is not None else {}
    in_force = {one.name: one for one in gateway.spec.listeners} if isinstance(gateway, KubeGateway) else {}
    addresses, conditions = [], refused
    if found.spec.get("addresses"):
        # None can be asked for here, so that it is these that keep it out.
        conditions = [Condition("Accepted", False, "UnsupportedAddress", text), refused[1]]
    if isinstance(gateway, KubeGateway):
        own = [one for one in services if one.namespace == gateway.namespace and _selects(one, gateway)]
        addresses = [{"type": "IPAddress" if is_ip(one) else "Hostname", "value": one} for one in _addresses(own)]
        accepted = Condition("Accepted", True, "ListenersNotValid" if found.errors else "Accepted", text)
        conditions = [accepted, _programmed(store, gateway, own, bool(addresses))]
    listeners = []
    for name in dict.fromkeys([*_names_of_listeners(found), *in_force]):
        one = in_force.get(name)
        if not isinstance(gateway, KubeGateway) or one is None:
            number = attached(written, readable[name]) if written is not None and name in readable else 0
            kinds, of_listener = _of_refused(store, found, name, refused)
            listeners.append(_listener(found, name, kinds, number, of_listener, now))
            continue
        of_listener = [
            _ACCEPTED,
            Condition("Conflicted", False, "NoConflicts"),
            _resolved(store, gateway, one),
            Condition("Programmed", conditions[1].holds, "Programmed" if conditions[1].holds else "Pending"),
        ]
        listeners.append(_listener(found, name, one.kinds, attached(gateway, one), of_listener, now))
    return {
        "addresses": addresses,
        "listeners": listeners,
        "conditions": merged(before, conditions, found.generation, now),
    }


def _of_refused(
    store: Store, found: Object, name: str, refused: list[Condition]
) -> tuple[Sequence[str], list[Condition]]:
    """Of a listener that is left out: the kinds of routes that could be bound to it, and what keeps it out, in the
    standard's words where it has some. It may be one that cannot be read.
    """
    written: Json = next((one for one in _written(found) if one.get("name") == name), {})
    protocol, tls = str(written.get("protocol")), written.get("tls")
    refs = tls.get("certificateRefs") if isinstance(tls, dict) else None
    allowed = written.get("allowedRoutes")
    asked = allowed.get("kinds") if isinstance(allowed, dict) else None
    possible = possible_kinds(protocol, isinstance(tls, dict) and tls.get("mode") == "Passthrough")
    wanted = [one for one in asked or () if isinstance(one, dict)] if isinstance(asked, list) else []
    named = [str(one.get("kind")) if one.get("group", GROUP) == GROUP else "" for one in wanted]
    kinds = [kind for kind in possible if not wanted or kind in named]
    text = refused[0].message
    conflict = _conflicts(_written(found)).get(name)
    wrong = next((one for one in refs if _is_strange(one)), None) if isinstance(refs, list) else None
    gateway = found.resource
    resolved = None  # that cannot be told of what cannot be read
    if isinstance(gateway, KubeGateway):
        resolved = next((_resolved(store, gateway, one) for one in gateway.spec.listeners if one.name == name), None)
    conflicted = Condition("Conflicted", False, "NoConflicts")
    if conflict is not None:
        accepted, conflicted = refused[0], Condition("Conflicted", True, conflict.reason, conflict.message)
    elif not possible:
        accepted = Condition("Accepted", False, "UnsupportedProtocol", text)
    elif wrong is not None:
        accepted, resolved = _ACCEPTED, Condition("ResolvedRefs", False, "InvalidCertificateRef", text)
    elif any(kind not in possible for kind in named):
        accepted, resolved = _ACCEPTED, Condition("ResolvedRefs", False, "InvalidRouteKinds", text)
    else:
        accepted = _ACCEPTED if resolved is not None and not resolved.holds else refused[0]
    return kinds, [one for one in (accepted, conflicted, resolved, refused[1]) if one is not None]


def _written(found: Object) -> list[Json]:
    listeners = found.spec.get("listeners")
    return [one for one in listeners if isinstance(one, dict)] if isinstance(listeners, list) else []


def _conflicts(written: Sequence[Json]) -> dict[str, Conflict]:
    """By name, of those that are written."""
    places = [
        (str(o.get("name")), o.get("port", 0), str(o.get("hostname", "")), str(o.get("protocol"))) for o in written
    ]
    return {places[number][0]: one for number, one in conflicts(places).items()}


def _is_strange(reference: Any) -> bool:
    """Whether a certificate is to be in something that is no Secret."""
    return isinstance(reference, dict) and (reference.get("group", ""), reference.get("kind", "Secret")) != (
        "",
        "Secret",
    )


def _listener(
    found: Object, name: str, kinds: Sequence[str], attached: int, conditions: list[Condition], now: datetime
) -> dict[str, Any]:
    known = found.status.get("listeners")
    before = next((one for one in known or () if isinstance(one, dict) and one.get("name") == name), {})
    return {
        "name": name,
        "supportedKinds": [{"group": GROUP, "kind": kind} for kind in kinds],
        "attachedRoutes": attached,
        "conditions": merged(before.get("conditions"), conditions, found.generation, now),
    }


def _names_of_listeners(found: Object) -> list[str]:
    """Those of a Gateway that could not be read, as far as they are names."""
    written = [one.get("name") for one in _written(found)]
    return list(dict.fromkeys(name for name in written if isinstance(name, str) and name))


def _selects(service: Object, gateway: KubeGateway) -> bool:
    selector = service.spec.get("selector") or {}
    return bool(selector.get(KubeGateway.PROXY_LABEL) == gateway.name)


def _addresses(services: Sequence[Object]) -> list[str]:
    """Where Services are reached: from outside of the cluster if they are meant to be, else by their virtual IP."""
    found: dict[str, None] = {}
    for one in services:
        given = (one.status.get("loadBalancer") or {}).get("ingress") or ()
        outside = [str(at.get("ip") or at.get("hostname") or "") for at in given]
        outside += one.spec.get("externalIPs") or ()
        is_open = one.spec.get("type") == "LoadBalancer"
        inside = [] if outside or is_open else [one.spec.get("clusterIP") or ""]
        found |= dict.fromkeys(at for at in (*outside, *inside) if at not in ("", "None"))
    return list(found)


def _programmed(store: Store, gateway: KubeGateway, services: Sequence[Object], has_address: bool) -> Condition:
    label = f"{KubeGateway.PROXY_LABEL}: {gateway.name}"
    if not services:
        text = f"no Service in namespace {gateway.namespace!r} selects the proxies with the label {label}"
        return Condition("Programmed", False, "AddressNotAssigned", text)
    if not has_address:
        names = ", ".join(one.name for one in services)
        return Condition("Programmed", False, "AddressNotAssigned", f"no address was given to Service {names} yet")
    hosts = [f"{one.name}.{one.namespace}.svc.{store.options.domain}" for one in services]
    if not any(any(store.services[host].backends.values()) for host in hosts if host in store.services):
        text = f"no proxy with the label {label} is ready in namespace {gateway.namespace!r}"
        return Condition("Programmed", False, "NoResources", text)
    return Condition("Programmed", True, "Programmed")


def _resolved(store: Store, gateway: KubeGateway, listener: Listener) -> Condition:
    reasons = dict(_unresolved(store, gateway, listener))
    if not reasons:
        return Condition("ResolvedRefs", True, "ResolvedRefs")
    reason = next(iter(reasons))
    return Condition("ResolvedRefs", False, reason, reasons[reason])


def _unresolved(store: Store, gateway: KubeGateway, listener: Listener) -> Iterator[tuple[str, str]]:
    for reference in listener.tls.certificate_refs if listener.tls else ():
        owner = reference.namespace or gateway.namespace
        if not store.is_granted(GROUP, "Gateway", gateway.namespace, "Secret", owner, reference.name):
            yield "RefNotPermitted", f"no ReferenceGrant in namespace {owner!r} allows Secret {reference.name!r}"
            continue
        report = Report()
        credentials.check(store.secrets, owner, reference.name, reference, "name", report)
        if report.failed:
            yield "InvalidCertificateRef", told(report.diagnostics)


def _attaches(store: Store, route: Route, gateway: KubeGateway, listener: Listener) -> bool:
    names: tuple[str, ...] = getattr(route.spec, "hostnames", ()) or ("*",)
    shares = any(intersection(listener.hostname or "*", name) is not None for name in names)
    return shares and store.binds(route, gateway, listener)
