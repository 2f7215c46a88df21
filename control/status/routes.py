"""The status of the Gateway API's routes: for each parent that is ours, whether it takes the route.

Entries of other controllers stay as they are. A Gateway that is not there has no controller, and so nobody who could
say in the route's status that it is missing: an Event does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.gateway_api import HTTPRoute, KubeGateway, ParentRef
from pymesh.control.resources.gateway_routes import GRPCRoute, TCPRoute, TLSRoute
from pymesh.control.status.conditions import Condition, merged, told
from pymesh.control.status.gateways import CONTROLLER
from pymesh.control.status.objects import Json, Object
from pymesh.control.store.parents import Route, is_for_port
from pymesh.control.store.route_references import backends, check_backend, refusal
from pymesh.control.store.store import Store

_OF_A_REFERENCE = ("group", "kind", "namespace", "name", "sectionName", "port")


def route_status(store: Store, found: Object, gateways: Mapping[tuple[str, str], Object], now: datetime) -> Json:
    """Of a route; ``gateways`` are the Gateways of our class by namespace and name, refused ones too."""
    entries = found.status.get("parents")
    before = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    made: list[dict[str, Any]] = [one for one in before if one.get("controllerName") != CONTROLLER]
    for reference in _references(found):
        conditions = _conditions(store, found, reference, gateways)
        if conditions is None:
            continue
        last = next(
            (o for o in before if o.get("controllerName") == CONTROLLER and o.get("parentRef") == reference), {}
        )
        made.append(
            {
                "parentRef": reference,
                "controllerName": CONTROLLER,
                "conditions": merged(last.get("conditions"), conditions, found.generation, now),
            }
        )
    return {"parents": made}


def _references(found: Object) -> list[dict[str, Any]]:
    """The parents as they are written: that is how their entries are told apart."""
    written = found.spec.get("parentRefs")
    return [
        {key: one[key] for key in _OF_A_REFERENCE if key in one}
        for one in (written if isinstance(written, list) else ())
        if isinstance(one, dict) and isinstance(one.get("name"), str)
    ]


def _conditions(
    store: Store, found: Object, reference: Json, gateways: Mapping[tuple[str, str], Object]
) -> list[Condition] | None:
    """None: the parent is not ours."""
    is_service = reference.get("kind") == "Service"
    where = str(reference.get("namespace") or found.namespace), str(reference["name"])
    gateway = None if is_service else gateways.get(where)
    if not is_service and gateway is None:
        return None
    route = found.resource
    if not isinstance(route, HTTPRoute | GRPCRoute | TLSRoute | TCPRoute):
        return [Condition("Accepted", False, "UnsupportedValue", told(found.errors))]
    parent = route.spec.parent_refs[_references(found).index(dict(reference))]
    return [_accepted(store, found, route, parent, gateway), _resolved(store, route)]


def _accepted(store: Store, found: Object, route: Route, parent: ParentRef, gateway: Object | None) -> Condition:
    if gateway is not None:
        in_force = gateway.in_force if gateway.errors else gateway.resource
        if not isinstance(in_force, KubeGateway):
            text = f"{gateway.title} is refused itself: see its status"
            return Condition("Accepted", False, "Pending", text)
        why = refusal(store, route, parent, in_force)
        if why is not None:
            text = f"{why.message}; hint: {why.hint}" if why.hint else why.message
            return Condition("Accepted", False, why.reason, text)
    else:
        service = store.service(parent.name, parent.namespace or route.namespace)
        if service is None:
            return Condition("Accepted", False, "NoMatchingParent", f"there is no service {parent.name!r}")
        is_narrow = parent.port is not None or parent.section_name
        if is_narrow and not any(is_for_port(parent, port) for port in service.ports):
            wanted = parent.port if parent.port is not None else repr(parent.section_name)
            return Condition("Accepted", False, "NoMatchingParent", f"{service.host!r} has no port {wanted}")
    if found.errors and not found.is_partial:
        return Condition("Accepted", False, "UnsupportedValue", told(found.errors))
    return Condition("Accepted", True, "Accepted")


def _resolved(store: Store, route: Route) -> Condition:
    rules: Sequence[Any] = route.spec.rules
    for rule in rules:
        for backend in backends(rule):
            report = Report()
            reason = check_backend(store, route, backend, report)
            if reason is not None:
                return Condition("ResolvedRefs", False, reason, told(report.diagnostics))
    return Condition("ResolvedRefs", True, "ResolvedRefs")
