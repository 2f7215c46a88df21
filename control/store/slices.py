"""EndpointSlices: the endpoints of a Kubernetes Service, spread over several documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.kubernetes import EndpointSlice, SliceEndpoint
from pymesh.control.store.pods import NO_PODS, Pods, labels_of
from pymesh.control.store.services import Backend, Port
from pymesh.control.store.workloads import Locality, Workload


def backends(
    slices: Iterable[EndpointSlice], port: Port, publish_not_ready: bool, pods: Pods = NO_PODS
) -> list[Backend]:
    """Where the slices say that a port of their service is served, each place once.

    A pod of two IP versions is in a slice of each and is one endpoint with two addresses. While an endpoint moves from
    one slice to another it may be in both.
    """
    found: dict[tuple[str, int], Backend] = {}
    for one in slices:
        for backend in _served(one, port, publish_not_ready, pods):
            # Who it is, where the slice says so: an address may belong to another by and by.
            known = (backend.workload.name or backend.workload.address, backend.port)
            first = found.setdefault(known, backend)
            found[known] = _merged(first, backend)
    return list(found.values())


def awaited(slices: Iterable[EndpointSlice], port: Port) -> dict[str, int]:
    """Address -> where an endpoint that gets nothing now serves a port."""
    found: dict[str, int] = {}
    for one in slices:
        numbers = [known.port for known in one.ports if known.name == port.name]
        for endpoint in one.endpoints:
            if numbers and _health(endpoint, publish_not_ready=False) is None:
                found |= dict.fromkeys(endpoint.addresses, numbers[0])
    return found


def orphan(one: EndpointSlice, namespace: str, owner: str, report: Report) -> None:
    """Report a slice whose service does not exist."""
    label = EndpointSlice.SERVICE_LABEL
    if owner:
        message, hint = f"there is no Service {namespace}/{owner}", f"the label {label} names it"
    else:
        message, hint = f"{one.title} belongs to no service", f"give it the label {label}"
    report.error(one.metadata.place("labels"), message, hint)


def _served(one: EndpointSlice, port: Port, publish_not_ready: bool, pods: Pods) -> Iterator[Backend]:
    numbers = [known.port for known in one.ports if known.name == port.name]
    for endpoint in one.endpoints:
        health = _health(endpoint, publish_not_ready)
        if health is None:
            continue
        target = endpoint.target_ref
        pod = pods.named(one.namespace, target.name) if target is not None and target.kind in ("", "Pod") else None
        workload = Workload(
            target.name if target else "",
            one.namespace,
            endpoint.addresses[0],  # the others are said to be as good
            labels=labels_of(endpoint.node_name, pod),
            service_account=pod.spec.service_account_name if pod else "",
            locality=pods.localities.get(endpoint.node_name, Locality(zone=endpoint.zone)),
            hostname=endpoint.hostname,
            health=health,
            for_zones=tuple(zone.name for zone in endpoint.hints.for_zones),
            at=endpoint.at,
        )
        for number in numbers:
            yield Backend(workload, number)


def _health(endpoint: SliceEndpoint, publish_not_ready: bool) -> Literal["HEALTHY", "DRAINING"] | None:
    """None: it gets nothing, and keeps nothing."""
    if endpoint.conditions.ready or publish_not_ready:
        return "HEALTHY"
    return "DRAINING" if endpoint.conditions.is_draining else None


def _merged(first: Backend, second: Backend) -> Backend:
    addresses = sorted({first.workload.address, second.workload.address}, key=lambda one: ":" in one)
    if len(addresses) == 1 or (":" in addresses[0]) == (":" in addresses[1]):
        return first
    return Backend(replace(first.workload, address=addresses[0], second_address=addresses[1]), first.port)
