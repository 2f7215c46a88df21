"""A mesh whose configuration is a store: each proxy's messages from it, and what people ask about it.

Where the resources come from is the business of those that derive from it; they replace everything at once.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from pymesh.control.admission import among
from pymesh.control.analysis import analyze, coded
from pymesh.control.description import describe
from pymesh.control.live import inventory
from pymesh.control.live.inventory import Known, KnownService
from pymesh.control.resources.diagnostics import Diagnostic, Position, Report
from pymesh.control.resources.kubernetes_workloads import Pod
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.workloads import WorkloadEntry
from pymesh.control.store import addresses
from pymesh.control.store.store import MeshOptions, Store
from pymesh.control.store.workloads import NODE_LABEL, SOMEWHERE, Locality
from pymesh.control.translate import Translation, translate
from pymesh.control.translate.origins import Origins
from pymesh.control.translate.proxy import Proxy, ProxyError

log = logging.getLogger(__name__)

#: So many warnings are remembered to have been logged: whose they are is for proxies to say.
_MOST_WARNED: Final = 10_000


class DescribedNode(Protocol):
    """What a proxy says of itself when it connects: an object of its own for each connection, gone when that is."""

    @property
    def id(self) -> str:
        """Istio's node id."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Istio's node metadata."""

    @property
    def user_agent(self) -> str:
        """``user_agent_name``: ``envoy`` for Envoy."""

    @property
    def identity(self) -> object | None:
        """What it has proved to be, which its metadata repeats; None where nobody has to prove anything."""

    @property
    def locality(self) -> tuple[str, str, str]:
        """Region, zone and sub-zone."""

    @property
    def reads_secrets(self) -> bool:
        """Whether it may have the Secrets of its namespace."""


@dataclass(slots=True)
class _Served:
    """A proxy that is connected: what was made for it is kept for as long as it is."""

    #: As it describes itself.
    told: Proxy
    #: What the configuration knows of the workload: its pod, and where that runs.
    pod: Pod | None
    place: Locality
    #: As it is served.
    proxy: Proxy
    #: What was made of which store.
    store: Store | None = None
    made: Translation | None = None


class StoredMesh:
    """The configuration in use, and what is wrong with what was read last."""

    def __init__(self, options: MeshOptions | None = None) -> None:
        self._options = options or MeshOptions()
        self._resources: Sequence[Resource] = ()
        self._found: tuple[Diagnostic, ...] = ()
        #: Namespace and name of a workload -> its service account.
        self._accounts: dict[tuple[str, str], str] = {}
        #: Namespace and name of a pod -> the pod.
        self._pods: dict[tuple[str, str], Pod] = {}
        self._served: WeakKeyDictionary[DescribedNode, _Served] = WeakKeyDictionary()
        #: What was logged: for whom, what; the oldest first.
        self._warned: dict[tuple[str, Diagnostic], None] = {}
        self._in_force_since: datetime | None = None
        self._refused_since: datetime | None = None
        #: What only people ask for, made when they do: file -> its resources in their order there; who is known.
        self._of_files: dict[str, list[Resource]] | None = None
        self._inventory: tuple[Sequence[Known], Sequence[KnownService]] | None = None
        self.store = Store(self._options)

    def _use(self, store: Store, resources: Sequence[Resource], *, but_slices: bool = True) -> None:
        """From now on; without ``but_slices`` nothing but EndpointSlices differs from what was in use before."""
        self.store, self._resources = store, resources
        self._in_force_since, self._refused_since = datetime.now(UTC), None
        self._of_files = self._inventory = None
        if but_slices:
            self._accounts = dict(_accounts(resources))
            self._pods = {(one.namespace, one.name): one for one in resources if isinstance(one, Pod)}
            self._warned.clear()

    def messages(self, node: DescribedNode) -> Mapping[str, Mapping[str, Any]]:
        """What a proxy should have: type URL -> name -> message. Raises ``ProxyError``."""
        served, store = self._serving(node), self.store
        if node.identity is not None:
            self._check_place(served.proxy)
        if served.made is None or served.store is not store:
            before = served.made
            served.store, served.made = store, translate(store, served.proxy, before)
            if before is None or served.made.warnings is not before.warnings:
                for one in served.made.warnings:
                    self._warn(served.proxy.name, one)
        return served.made.messages

    def gone(self, node: DescribedNode) -> None:
        """A proxy has gone, with what was made for it."""
        self._served.pop(node, None)

    def _warn(self, who: str, one: Diagnostic) -> None:
        """Once, as far as can be remembered."""
        if (who, one) in self._warned:
            return
        self._warned[who, one] = None
        if len(self._warned) > _MOST_WARNED:
            del self._warned[next(iter(self._warned))]
        log.warning(str(one))

    @property
    def _owners(self) -> dict[str, list[Resource]]:
        if self._of_files is None:
            self._of_files = _by_file(self._resources)
        return self._of_files

    def _serving(self, node: DescribedNode) -> _Served:
        known = self._served.get(node)
        told = known.told if known is not None else self._described(node)
        key = told.namespace, told.name
        pod, place = self._pods.get(key), self.store.pod_localities.get(key, SOMEWHERE)
        if known is None or known.pod is not pod or known.place != place:
            known = self._served[node] = _Served(told, pod, place, self._as_known(told, pod, place))
        return known

    def _described(self, node: DescribedNode) -> Proxy:
        """Whom a node says that it is of. Raises ``ProxyError``."""
        return Proxy.parse(node.id, node.metadata, node.user_agent, Locality(*node.locality), node.reads_secrets)

    def _as_known(self, told: Proxy, pod: Pod | None, place: Locality) -> Proxy:
        """A proxy with what is known of its workload in place of what it says: labels of its pod, and where that runs.

        A pod cannot tell where its node is, the nodes can; and its labels may be others than those that it began with.
        """
        if pod is not None:
            node = {NODE_LABEL: pod.spec.node_name} if pod.spec.node_name else {}
            told = replace(told, labels={**node, **pod.metadata.labels})
        return replace(told, locality=place) if place != SOMEWHERE else told

    def _check_place(self, proxy: Proxy) -> None:
        """A workload that the mesh knows is one of its own service account. Raises ``ProxyError``."""
        account = self._accounts.get((proxy.namespace, proxy.name), proxy.service_account)
        if account != proxy.service_account:
            raise ProxyError(
                f"workload {proxy.namespace}/{proxy.name} has service account {account!r}, "
                f"the token is of {proxy.service_account!r}"
            )

    def resources(self) -> Sequence[dict[str, Any]]:
        """Each resource in use: kind, namespace, name, place."""
        return [_shown(one, one.at) for one in self._resources]

    def origins(self, node: DescribedNode) -> Callable[[Any, str], Sequence[dict[str, Any]]]:
        """For a proxy: the resources behind what it was sent, or behind a path in that; the closest first."""
        known, owners = Origins(self.store, self._serving(node).proxy), self._owners

        def traced(message: Any, path: str) -> list[dict[str, Any]]:
            return [shown for at in known.of(message, path) if (shown := _owner(owners, at)) is not None]

        return traced

    def describe(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        """What applies to a service, workload or gateway, with what is found wrong around it. Raises UnknownError."""
        made = describe(self.store, kind, name, namespace)
        report = Report()
        analyze(self.store, self._resources, (), report)
        places = {_begin(self._owners, at) for at in made.places()}
        found = {*map(coded, self._found), *report.diagnostics}
        around = [one for one in sorted(found) if _begin(self._owners, one.at) in places]
        return {
            **made.as_data(),
            "findings": [
                {"code": o.code, "severity": o.severity, "at": str(o.at), "message": o.message, "hint": o.hint}
                for o in around
            ],
        }

    def about(self, new: Resource) -> Sequence[Diagnostic]:
        """What would be found about a resource if it were among those in use."""
        return among.findings(new, self._resources, self._options)

    def ours(self, one: Any) -> tuple[Any, bool] | None:
        """What of an object of an API server is for this mesh, and whether that is sure; None: it is others'."""
        return one, True

    def standing(self) -> dict[str, Any]:
        """Since when the configuration is in force, and since when newer files are refused (None: they are not)."""
        times = {"inForceSince": self._in_force_since, "refusedSince": self._refused_since}
        return {key: time and time.isoformat() for key, time in times.items()}

    def known(self) -> tuple[Sequence[Known], Sequence[KnownService]]:
        """The workloads and services that the configuration in use tells of."""
        if self._inventory is None:
            entries = (one for one in self._resources if isinstance(one, WorkloadEntry))
            self._inventory = inventory.configured(self.store, entries)
        return self._inventory

    def names(self) -> Mapping[str, Any]:
        """Host -> its addresses: Istio's name table."""
        return addresses.names(self.store.services)

    def diagnostics(self) -> Sequence[dict[str, Any]]:
        """Everything wrong with the newest files: what, where, hint."""
        return [
            {"at": str(one.at), "severity": one.severity, "message": one.message, "hint": one.hint}
            for one in self._found
        ]


def _accounts(resources: Sequence[Resource]) -> Iterator[tuple[tuple[str, str], str]]:
    for one in resources:
        if isinstance(one, WorkloadEntry) and one.spec.service_account:
            yield (one.namespace, one.name), one.spec.service_account
        elif isinstance(one, Pod):
            yield (one.namespace, one.name), one.spec.service_account_name


def _by_file(resources: Sequence[Resource]) -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for one in sorted(resources, key=lambda one: one.at):
        found.setdefault(one.at.file, []).append(one)
    return found


def _around(owners: Mapping[str, Sequence[Resource]], at: Position) -> Resource | None:
    """The resource that a place is in: the last one that begins before it in its file."""
    here = owners.get(at.file, ())
    number = bisect_right(here, at, key=lambda one: one.at)
    return here[number - 1] if number else None


def _begin(owners: Mapping[str, Sequence[Resource]], at: Position) -> Position:
    """Where the resource begins that a place is in."""
    found = _around(owners, at)
    return found.at if found is not None else at


def _owner(owners: Mapping[str, Sequence[Resource]], at: Position) -> dict[str, Any] | None:
    found = _around(owners, at)
    return _shown(found, at) if found is not None else None


def _shown(one: Resource, at: Position) -> dict[str, Any]:
    return {"kind": one.title.partition(" ")[0], "namespace": one.namespace, "name": one.name, "at": str(at)}
