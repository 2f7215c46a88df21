"""Which HealthCheckPolicy is for which port of which service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pymesh.control.resources.diagnostics import Report, did_you_mean
from pymesh.control.resources.health_check import HealthCheckPolicy
from pymesh.control.store import lookup
from pymesh.control.store.services import Port, Service

if TYPE_CHECKING:
    from pymesh.control.store.store import Store

#: (host of a service, name of a port or "" for all of them) -> policy.
HealthChecks = Mapping[tuple[str, str], HealthCheckPolicy]


def gather(bare: Store, written: Iterable[HealthCheckPolicy], report: Report) -> HealthChecks:
    """The policies by what they are for. Of two for the same it is the older one's, and the other is for its others.

    A target that is not there selects nothing: the endpoints of the others are asked whatever happens to it.
    """
    found: dict[tuple[str, str], HealthCheckPolicy] = {}
    for policy in written:
        taken = report.part()
        for target in policy.spec.target_refs:
            looked = report.part()
            service = lookup.service(bare, target, "name", target.name, policy.namespace, looked)
            names = [port.name for port in service.ports] if service is not None else []
            if service is not None and target.section_name and target.section_name not in names:
                looked.error(
                    target.place("sectionName"),
                    f"{service.host!r} has no port {target.section_name!r}",
                    did_you_mean(target.section_name, names),
                )
            for one in looked.diagnostics:
                report.warning(one.at, f"{one.message}: nothing is selected by it", one.hint)
            if service is None or looked.failed:
                continue
            first = found.setdefault((service.host, target.section_name), policy)
            if first is not policy:
                taken.error(
                    target.place("name"),
                    f"{service.host!r} has two HealthCheckPolicies",
                    f"change the one at {first.at}, or name different ports with sectionName",
                    rival=first.at,
                )
        if any(one is policy for one in found.values()):
            report.add_dangling(taken)
        else:
            report.add(taken.diagnostics)
    return found


def health_check(policies: HealthChecks, service: Service, port: Port) -> HealthCheckPolicy | None:
    """The policy of a port, or else of its whole service."""
    return policies.get((service.host, port.name)) or policies.get((service.host, ""))
