"""A store in which nothing but the endpoints of services has changed: what happens most, and must be quick.

The rest of the store, and whatever translation has made of it, goes on to be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Final

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.kubernetes import EndpointSlice
from pymesh.control.resources.kubernetes import Service as KubeService
from pymesh.control.resources.kubernetes_workloads import Pod
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.workloads import WorkloadEntry
from pymesh.control.store import discovery, pods, workloads
from pymesh.control.store.services import Service
from pymesh.control.store.store import Refreshment, Store, in_order

Name = tuple[str, str]

#: Of so many stores before this one it is kept what was made of them.
_MEMOS: Final = 8


def refreshed(store: Store, resources: Sequence[Resource], changed: Iterable[Resource]) -> Store | None:
    """The store of these resources; None: all of it must be made anew.

    ``changed`` are the resources that have come, gone or become others since ``store`` was made, old and new.
    """
    moved = list(changed)
    if store.options.virtual_network is not None or not all(isinstance(one, EndpointSlice | Pod) for one in moved):
        return None
    kept = [one for one in resources if not isinstance(one, Pod)]
    sliced: dict[Name, list[EndpointSlice]] = {}
    for one in in_order(each for each in kept if isinstance(each, EndpointSlice)):
        sliced.setdefault(_owner(one), []).append(one)
    asked = set(_affected(moved, sliced))
    known = pods.gather(resources)
    entries = [workloads.from_entry(one) for one in in_order(kept) if isinstance(one, WorkloadEntry)]
    made: dict[str, Service] = {}
    for service in kept:
        if isinstance(service, KubeService) and (service.namespace, service.name) in asked:
            here = sliced.get((service.namespace, service.name), [])
            fresh = discovery.from_kubernetes(service, entries, here, known, store.options.domain, Report())
            before = store.services.get(fresh.host)
            if before is None or not _is_alike(before, fresh):
                return None
            made[fresh.host] = fresh
    if _stands_elsewhere(store, made):
        return None
    since = Refreshment(store.memo, frozenset(made), _shortened(store.refreshment, _MEMOS - 1))
    return replace(
        store,
        services={**store.services, **made},
        pod_localities=known.places(),
        memo={},
        made_of={host: kept for host, kept in store.made_of.items() if host not in made},
        refreshment=since,
    )


def _shortened(since: Refreshment | None, length: int) -> Refreshment | None:
    if since is None or length == 0:
        return None
    return replace(since, before=_shortened(since.before, length - 1))


def _affected(moved: Iterable[Resource], sliced: dict[Name, list[EndpointSlice]]) -> Iterator[Name]:
    gone_or_new = {(one.namespace, one.name) for one in moved if isinstance(one, Pod)}
    for one in moved:
        if isinstance(one, EndpointSlice):
            yield _owner(one)
    if not gone_or_new:
        return
    for owner, slices in sliced.items():
        named = ((one.namespace, each.target_ref.name) for one in slices for each in one.endpoints if each.target_ref)
        if not gone_or_new.isdisjoint(named):
            yield owner


def _owner(one: EndpointSlice) -> Name:
    return one.namespace, one.metadata.labels.get(EndpointSlice.SERVICE_LABEL, "")


def _is_alike(before: Service, fresh: Service) -> bool:
    """Whether nothing but the endpoints is another, and nothing but clusters tells of those."""
    if before.headless or before.resolution != "EDS":
        return False
    names = (one.name for one in fields(Service) if one.name not in ("backends", "awaited", "at"))
    return all(getattr(before, name) == getattr(fresh, name) for name in names)


def _stands_elsewhere(store: Store, made: Mapping[str, Service]) -> bool:
    """Whether another part of the store holds one of these services, or its endpoints, as they were."""
    if not made.keys().isdisjoint(service.host for service in store.providers.services()):
        return True
    held = {id(backends) for host in made for backends in store.services[host].backends.values() if backends}
    others = (one for host, one in store.services.items() if host not in made)
    return any(id(backends) in held for one in others for backends in one.backends.values())
