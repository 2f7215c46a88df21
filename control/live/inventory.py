"""What is there whether or not it is spoken to: workloads and services, by the names that metrics give them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pymesh.control.live.samples import End
from pymesh.control.resources.workloads import WorkloadEntry
from pymesh.control.store.store import Store

#: Istio's labels that say what a workload is, and the usual ones in their absence.
APP_LABELS = ("service.istio.io/canonical-name", "app")
VERSION_LABELS = ("service.istio.io/canonical-revision", "version")

#: Namespace and name: of a service account, a service or a workload.
Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """A workload that configuration or its own proxy tells of."""

    namespace: str
    name: str
    app: str
    version: str = ""
    service_account: str = ""
    is_gateway: bool = False
    #: Its proxy is connected to this control plane.
    is_connected: bool = False

    @property
    def end(self) -> End:
        """What metrics call it."""
        return End(self.namespace, self.app, self.version)


@dataclass(frozen=True, slots=True)
class KnownService:
    """A service of the mesh, or one outside that it knows of."""

    namespace: str
    name: str
    host: str
    is_external: bool = False
    #: The applications of the workloads behind it.
    apps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything known, and who is who."""

    workloads: tuple[Known, ...] = ()
    services: Mapping[Name, KnownService] = field(default_factory=dict)
    #: Service account -> the ends that run under it.
    accounts: Mapping[Name, frozenset[End]] = field(default_factory=dict)

    @classmethod
    def of(cls, workloads: Iterable[Known], services: Iterable[KnownService]) -> Inventory:
        """With each workload once; what its own proxy tells comes before what configuration tells."""
        chosen: dict[Name, Known] = {}
        for one in sorted(workloads, key=lambda one: one.is_connected):
            chosen[one.namespace, one.name] = one
        accounts: dict[Name, set[End]] = defaultdict(set)
        for one in chosen.values():
            accounts[one.namespace, one.service_account].add(one.end)
        return cls(
            tuple(chosen[name] for name in sorted(chosen)),
            {(one.namespace, one.name): one for one in services},
            {account: frozenset(ends) for account, ends in accounts.items()},
        )

    def app_of(self, service: Name) -> str:
        """What the workloads of a service are called: their application if they share one, else the service's name."""
        known = self.services.get(service)
        return known.apps[0] if known is not None and len(known.apps) == 1 else service[1]


def configured(store: Store, entries: Iterable[WorkloadEntry]) -> tuple[list[Known], list[KnownService]]:
    """What the configuration in force tells of."""
    workloads: dict[Name, Known] = {}
    services = []
    for service in store.services.values():
        behind = [backend.workload for backends in service.backends.values() for backend in backends]
        apps = tuple(sorted({app(one.labels, one.name) for one in behind}))
        services.append(KnownService(service.namespace, service.name, service.host, service.external, apps))
        if service.external:
            continue
        for one in behind:
            made = described(one.namespace, one.name, one.labels, one.service_account)
            workloads[one.namespace, one.name] = made
    for entry in entries:
        labels = {**entry.metadata.labels, **entry.spec.labels}
        made = described(entry.namespace, entry.name, labels, entry.spec.service_account)
        workloads.setdefault((entry.namespace, entry.name), made)
    return list(workloads.values()), services


def described(namespace: str, name: str, labels: Mapping[str, Any], account: str, **more: bool) -> Known:
    """A workload with these labels."""
    version = next((str(labels[key]) for key in VERSION_LABELS if labels.get(key)), "")
    return Known(namespace, name, app(labels, name), version, account or "default", **more)


def app(labels: Mapping[str, Any], otherwise: str) -> str:
    """Istio's canonical service of a workload."""
    return next((str(labels[key]) for key in APP_LABELS if labels.get(key)), otherwise)
