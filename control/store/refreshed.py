"""A store in which nothing but the endpoints of services has changed: what happens most, and must be quick.

The rest of the store, and whatever translation has made of it, goes on to be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, replace
from typing import Final

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.kubernetes import EndpointSlice
from pymesh.control.resources.kubernetes import Service as KubeService
from pymesh.control.resources.kubernetes_workloads import Pod
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.workloads import ServiceEntry, WorkloadEntry
from pymesh.control.store import discovery, pods, workloads
from pymesh.control.store.pods import Pods
from pymesh.control.store.services import Service
from pymesh.control.store.store import Refreshment, Store, in_order

Name = tuple[str, str]

#: Of so many stores before this one it is kept what was made of them.
_MEMOS: Final = 8


#: A resource as it was, and as it is; None: it was not there, or is not any more.
Change = tuple[Resource | None, Resource | None]


class Basis:
    """Of the resources in force those that endpoints are made of, found by who needs them. It goes with the changes, so
    that one costs the same in a mesh of any size.
    """

    def __init__(self, resources: Sequence[Resource]) -> None:
        self.services = {(one.namespace, one.name): one for one in resources if isinstance(one, KubeService)}
        #: Hosts that ExternalName services name: what serves them serves those, too, or will as soon as there is any.
        self.aliased = {one.spec.external_name.removesuffix(".") for one in self.services.values()}
        #: By the service that they are of.
        self.slices: dict[Name, dict[str, EndpointSlice]] = {}
        for one in resources:
            if isinstance(one, EndpointSlice):
                self.slices.setdefault(_owner(one), {})[one.at.file] = one
        self.entries = [workloads.from_entry(one) for one in in_order(resources) if isinstance(one, WorkloadEntry)]
        self.pods = pods.gather(resources)
        #: Namespace and labels of the pods that ServiceEntries select.
        self._selected = [
            (one.namespace, one.spec.workload_selector.labels)
            for one in resources
            if isinstance(one, ServiceEntry) and one.spec.workload_selector is not None
        ]

    def selects(self, pod: Pod) -> bool:
        """Whether a ServiceEntry may have this pod behind it."""
        labels = pod.metadata.labels.items()
        return any(where == pod.namespace and wanted.items() <= labels for where, wanted in self._selected)

    def has_owner(self, one: EndpointSlice) -> bool:
        """Whether the service of a slice is there."""
        return _owner(one) in self.services

    def change(self, changes: Iterable[Change]) -> set[Name]:
        """Take over changes of slices and pods; the services whose endpoints may be others by them."""
        asked, named = set[Name](), dict[Name, Pod | None]()
        for before, now in changes:
            if isinstance(before, EndpointSlice):
                asked.add(_owner(before))
                self.slices.get(_owner(before), {}).pop(before.at.file, None)
            if isinstance(now, EndpointSlice):
                asked.add(_owner(now))
                self.slices.setdefault(_owner(now), {})[now.at.file] = now
            if isinstance(before, Pod):
                named[before.namespace, before.name] = None
            if isinstance(now, Pod):
                named[now.namespace, now.name] = None if now.is_over else now
        if named:
            known = {**self.pods.pods, **named}
            self.pods = Pods({key: one for key, one in known.items() if one is not None}, self.pods.localities)
            asked.update(self._named_by(named.keys()))
        return asked

    def of(self, service: KubeService, domain: str) -> Service:
        """A service with the endpoints that it has by now."""
        here = in_order(self.slices.get((service.namespace, service.name), {}).values())
        return discovery.from_kubernetes(service, self.entries, here, self.pods, domain, Report())

    def _named_by(self, moved: AbstractSet[Name]) -> Iterator[Name]:
        """The services that pods of these names are behind."""
        for owner, slices in self.slices.items():
            targets = (each.target_ref for one in slices.values() for each in one.endpoints)
            if not moved.isdisjoint((owner[0], one.name) for one in targets if one is not None):
                yield owner


def refreshed(store: Store, basis: Basis, changes: Sequence[Change]) -> Store | None:
    """The store after these changes; None: all of it must be made anew, and so must the basis."""
    moved = [one for pair in changes for one in pair if one is not None]
    if store.options.virtual_network is not None or not all(isinstance(one, EndpointSlice | Pod) for one in moved):
        return None
    if any(isinstance(one, Pod) and basis.selects(one) for one in moved):
        return None
    made: dict[str, Service] = {}
    for name in sorted(basis.change(changes)):
        service = basis.services.get(name)
        if service is None:
            continue
        fresh = basis.of(service, store.options.domain)
        before = store.services.get(fresh.host)
        if before is None or not _is_alike(before, fresh):
            return None
        made[fresh.host] = fresh
    # Another part of the store holds such a service, or its endpoints, as they were.
    if any(not made.keys().isdisjoint(hosts) for hosts in (basis.aliased, _asked(store))):
        return None
    places = basis.pods.places() if any(isinstance(one, Pod) for one in moved) else store.pod_localities
    since = Refreshment(store.memo, frozenset(made), _shortened(store.refreshment, _MEMOS - 1))
    return replace(
        store,
        services={**store.services, **made},
        pod_localities=places,
        memo={},
        made_of={host: kept for host, kept in store.made_of.items() if host not in made},
        refreshment=since,
    )


def _shortened(since: Refreshment | None, length: int) -> Refreshment | None:
    if since is None or length == 0:
        return None
    return replace(since, before=_shortened(since.before, length - 1))


def _owner(one: EndpointSlice) -> Name:
    return one.namespace, one.metadata.labels.get(EndpointSlice.SERVICE_LABEL, "")


def _is_alike(before: Service, fresh: Service) -> bool:
    """Whether nothing but the endpoints is another, and nothing but clusters tells of those."""
    if before.headless or before.resolution != "EDS":
        return False
    names = (one.name for one in fields(Service) if one.name not in ("backends", "awaited", "at"))
    return all(getattr(before, name) == getattr(fresh, name) for name in names)


def _asked(store: Store) -> Iterator[str]:
    """Hosts of the services that are asked for something by the mesh itself."""
    return (service.host for service in store.providers.services())
