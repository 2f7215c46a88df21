"""The status of Istio's resources and of our own: `Accepted`, or why not; a ServiceEntry's addresses; whether proxies
have taken a filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymesh.control.analysis import CODES, coded
from pymesh.control.resources.workloads import ServiceEntry
from pymesh.control.status.conditions import Condition, merged, told
from pymesh.control.status.objects import Json, Object
from pymesh.control.store.store import Store

#: Istio's names of severities.
_LEVELS = {"error": "ERROR", "warning": "WARNING", "info": "INFO"}


@dataclass(frozen=True, slots=True)
class Rejection:
    """What a proxy refused, and why."""

    node: str
    problem: str


def accepted(found: Object) -> Condition:
    """Whether a resource is in force."""
    if found.is_partial:
        return Condition("Accepted", True, "PartiallyInvalid", told(found.errors))
    if found.errors:
        return Condition("Accepted", False, "Invalid", told(found.errors))
    warnings = [one for one in found.findings if one.severity == "warning"]
    return Condition("Accepted", True, "Accepted", told(warnings))


def istio_status(store: Store, found: Object, now: datetime) -> Json:
    """Of one of Istio's resources; its findings with the codes of `pymesh analyze`."""
    made: dict[str, Any] = {
        "observedGeneration": found.generation,
        "conditions": merged(found.status.get("conditions"), [accepted(found)], found.generation, now),
        "validationMessages": [
            {"type": {"code": one.code, "name": CODES.get(one.code, "")}, "level": _LEVELS[one.severity]}
            for one in map(coded, found.findings)
        ],
    }
    if isinstance(found.resource, ServiceEntry):
        made["addresses"] = [] if found.errors else _addresses(store, found.resource)
    return made


def own_status(found: Object, rejections: Sequence[Rejection], now: datetime) -> Json:
    """Of one of our own resources; ``rejections`` are those of proxies that were sent it."""
    conditions = [accepted(found)]
    if rejections:
        lines = [f"{one.node}: {one.problem}" for one in rejections[:10]]
        more = [f"and {len(rejections) - 10} more"] if len(rejections) > 10 else []
        conditions.append(Condition("Programmed", False, "RejectedByProxies", "\n".join([*lines, *more])))
    else:
        is_in_force = found.is_partial or not found.errors
        conditions.append(Condition("Programmed", is_in_force, "Programmed" if is_in_force else "Invalid"))
    return {
        "observedGeneration": found.generation,
        "conditions": merged(found.status.get("conditions"), conditions, found.generation, now),
    }


def _addresses(store: Store, entry: ServiceEntry) -> list[dict[str, str]]:
    """The addresses that hosts were given because their author gave none, as Istio writes them."""
    if entry.spec.addresses:
        return []
    services = [(host, store.services.get(host)) for host in entry.spec.hosts]
    return [{"value": one, "host": host} for host, service in services if service for one in service.virtual_ips]
