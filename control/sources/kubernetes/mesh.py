"""The mesh that a Kubernetes API server describes.

One reflector for each kind; when something has changed, and nothing more for a moment, everything is read anew beside
the streams. An object that cannot be used is left out and told of, the rest of the mesh goes on. What is in force
depends on nothing but what the server has, so that it is the same after a crash, a missed event or a detour, with one
exception that ends by itself: an object that has just become wrong keeps its last good version for a moment, since what
it refers to may be on its way by another watch, and so does a Secret that has just gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from pymesh.control.resources.closed import closed
from pymesh.control.resources.diagnostics import ConfigError, Diagnostic, Position, Report
from pymesh.control.resources.kubernetes import EndpointSlice, Secret
from pymesh.control.resources.kubernetes_workloads import Pod
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import Object, is_for_mesh, load_object, place
from pymesh.control.resources.reduced import without, wrong_parts
from pymesh.control.sources.kubernetes.client import ApiClient
from pymesh.control.sources.kubernetes.kinds import watched
from pymesh.control.sources.kubernetes.reflector import Key, Reflector, differ, key_of
from pymesh.control.sources.kubernetes.selection import GATEWAY_API, ROUTES, for_mesh, ours
from pymesh.control.sources.kubernetes.status import State
from pymesh.control.sources.stored import DescribedNode, StoredMesh
from pymesh.control.status.objects import Object as Told
from pymesh.control.store.refreshed import Basis, Change, refreshed
from pymesh.control.store.store import MeshOptions
from pymesh.control.store.usable import assemble_usable
from pymesh.control.store.workloads import Locality
from pymesh.control.translate.proxy import Proxy, ProxyError

log = logging.getLogger(__name__)

#: Changes that belong together come by several watches; this is how long they may take.
SETTLE_SECONDS: Final = 0.02
#: How long the last good version of an object stands in for one that has become wrong.
GRACE_SECONDS: Final = 2.0
#: More objects than these at a time are read beside the streams.
_MOST_MOVED: Final = 1000
#: Kinds of which there are thousands of objects, with statuses for others to write.
_PLENTY: Final = frozenset({"EndpointSlice", "Node", "Pod"})
#: After a fault nothing is read for this long; then everything is.
_FAULT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Read:
    """What one version of an object was read as."""

    version: str
    object: Object
    resource: Resource | None
    found: tuple[Diagnostic, ...]

    def says_the_same_as(self, other: _Read) -> bool:
        """Whether one version of an object was read as the other was."""
        return self.resource is other.resource and self.found is other.found


class KubernetesMesh(StoredMesh):
    """Users' configuration in an API server, kept current."""

    def __init__(
        self,
        client: ApiClient,
        options: MeshOptions | None = None,
        *,
        cluster_id: Callable[[], str] | None = None,
        settle_seconds: float = SETTLE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        relist_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``cluster_id`` tells what pods are started with; without, their proxies are believed."""
        super().__init__(options)
        self._cluster_id = cluster_id
        self._client = client
        self._settle_seconds = settle_seconds
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._dirty = asyncio.Event()
        self._synced = asyncio.Event()
        self.reflectors = [
            Reflector(client, kind, self._dirty.set, relist_seconds=relist_seconds)
            for kind in watched(self._options.root_namespace)
        ]
        #: By place.
        self._read: dict[str, _Read] = {}
        #: Routes that are others' by now, and which version of them is: what was told of them once is to be taken back.
        self._of_others: dict[str, object] = {}
        #: What is in force, by place.
        self._used: dict[str, Resource] = {}
        #: The last version of each object that was right, by place, and since when it stands in for a wrong one.
        self._good: dict[str, Resource] = {}
        self._wrong_since: dict[str, float] = {}
        self._told: set[Diagnostic] = set()
        #: Of what is in force, for changes of endpoints; None: not made yet.
        self._basis: Basis | None = None
        #: Why the newest configuration could not be read at all; empty while it can.
        self._fault = ""
        #: Whether what is in force is not of the newest objects: then it is not known either which of them have moved.
        self._is_behind = False
        self._listeners: list[Callable[[], None]] = []

    def _described(self, node: DescribedNode) -> Proxy:
        told = super()._described(node)
        if told.mark is not None:
            raise ProxyError(
                f"{told.name}.{told.namespace} says UPSTREAM_MARK: in a cluster a pod's rules know "
                "the proxy by its user; hint: leave it out"
            )
        return told

    def _as_known(self, told: Proxy, pod: Pod | None, place: Locality) -> Proxy:
        if pod is not None and self._cluster_id is not None:
            told = replace(told, cluster_id=self._cluster_id())
        return super()._as_known(told, pod, place)

    def load(self) -> list[str]:
        """Nothing can be wrong yet: the server is asked by ``watch``."""
        return []

    async def synced(self) -> None:
        """Return once every kind was seen whole and is in force."""
        await self._synced.wait()

    async def watch(self, changed: Callable[[], None]) -> None:
        """Follow the server until cancelled; call ``changed`` after every change of what is in use."""
        try:
            async with asyncio.TaskGroup() as group:
                for one in self.reflectors:
                    group.create_task(one.run())
                group.create_task(self._follow(changed))
        finally:
            await self._client.close()

    async def _follow(self, changed: Callable[[], None]) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._grace_left()):
                    await self._dirty.wait()
            await asyncio.sleep(self._settle_seconds)
            self._dirty.clear()
            if not all(one.is_synced for one in self.reflectors):
                continue
            moved = self._moved()
            try:
                is_used = moved is not None and self._refresh(moved)
                if not is_used:
                    objects = [one for reflector in self.reflectors for one in reflector.objects.values()]
                    # Reading takes long enough to hold up the streams, so it happens beside them.
                    is_used = await asyncio.to_thread(self._replace, objects, self._clock())
                self._fault = ""
            except Exception as error:
                # A fault of ours must not end what still serves the last good configuration.
                log.exception("the configuration cannot be read, the last good one stays in use")
                self._fault, self._basis = repr(error), None
                await asyncio.sleep(_FAULT_SECONDS)
                self._dirty.set()
                continue
            if is_used:
                self._synced.set()
                changed()
                for told in self._listeners:
                    told()

    def _grace_left(self) -> float | None:
        """Seconds until something stops standing in; None: nothing does."""
        if not self._wrong_since:
            return None
        ends = min(self._wrong_since.values()) + self._grace_seconds
        return max(ends - self._clock(), 0.0) + self._settle_seconds

    def _replace(self, objects: Sequence[Object], now: float) -> bool:
        """Put these objects in force; False: they cannot be, and what was stays."""
        self._is_behind = True
        read = {place(one): self._newest(one) for one in for_mesh(objects)}
        routes = {place(one): one for one in objects if one["kind"] in ROUTES}
        self._of_others = {file: _generation(one) for file, one in routes.items() if file not in read}
        self._basis = None
        report = Report()
        others: dict[str, Iterator[Resource]] = {}

        def stand_in(file: str) -> Resource | None:
            if file not in read:
                return None  # it has gone, and stays for no more than a moment
            return next(others.setdefault(file, self._stand_ins(file, read[file].object, now, report)), None)

        gone = self._gone(read, now)
        usable = list(gone.values())
        for file, one in read.items():
            report.add(one.found)
            resource = one.resource or stand_in(file)
            usable += [resource] if resource is not None else []
        try:
            store, resources = assemble_usable(usable, self._options, report, stand_in)
        except ConfigError as error:
            log.error("the configuration cannot be used, the last good one stays in use\n%s", error)
            return False
        waiting = {file: since for file in (*others, *gone) if (since := self._waits_since(file, now)) is not None}
        right = {one.at.file: one for one in resources if one.at.file not in others}
        self._good = {**right, **{file: self._good[file] for file in waiting}}
        self._wrong_since, self._read, self._found = waiting, read, report.diagnostics
        self._used = {one.at.file: one for one in resources}
        self._use(store, resources)
        for told in set(report.diagnostics) - self._told:
            log.warning(str(told))
        self._told = set(report.diagnostics)
        self._is_behind = False
        return True

    def _moved(self) -> list[tuple[str, Object | None]] | None:
        """Place and newest version (None: it is gone) of each object that may be another than the one in force. None:
        that is not known, or they are many.
        """
        # All are asked, since each forgets what it tells.
        moved = [(one, one.moved()) for one in self.reflectors]
        if not self._synced.is_set() or self._wrong_since or self._fault or self._is_behind:
            return None
        found: list[tuple[str, Object | None]] = []
        for reflector, keys in moved:
            if keys is None:
                return None
            found += [(reflector.place(key), reflector.objects.get(key)) for key in keys]
        return found if len(found) <= _MOST_MOVED else None

    def _refresh(self, moved: Sequence[tuple[str, Object | None]]) -> bool:
        """Put these in force if they differ from those that are in nothing but endpoints."""
        if self._basis is None:
            self._basis = Basis(list(self._used.values()))
        read, used, changes = dict(self._read), dict(self._used), list[Change]()
        for file, one in moved:
            before, now = read.pop(file, None), None
            if one is not None and self._is_for_mesh(one):
                now = read[file] = self._newest(one)
            versions = [each for each in (before, now) if each is not None]
            if not versions or (len(versions) == 2 and versions[0].says_the_same_as(versions[1])):
                continue
            if any(each.found or each.resource is None for each in versions):
                return False
            was, resource = (each.resource if each is not None else None for each in (before, now))
            if used.pop(file, None) is not was:
                return False  # it had been left out
            if isinstance(resource, EndpointSlice) and not self._basis.has_owner(resource):
                return False
            if resource is not None:
                used[file] = resource
            changes.append((was, resource))
        store = refreshed(self.store, self._basis, changes)
        if store is None:
            return False
        self._read, self._used = read, used
        for file, _ in moved:
            if file not in used:
                self._good.pop(file, None)
            elif file in self._good:
                self._good[file] = used[file]
        are_slices = all(one is None or isinstance(one, EndpointSlice) for pair in changes for one in pair)
        self._use(store, list(used.values()), but_slices=not are_slices)
        return True

    def _is_for_mesh(self, one: Object) -> bool:
        """As :func:`for_mesh` has it, of an object that comes alone."""
        if one["kind"] == "EndpointSlice" and self._service_of(one) not in self._read:
            return False
        return is_for_mesh(one)

    def _service_of(self, one: Object) -> str:
        meta = one["metadata"]
        owner = (meta.get("labels") or {}).get(EndpointSlice.SERVICE_LABEL, "")
        return place({"apiVersion": "v1", "kind": "Service", "metadata": {**meta, "name": owner}})

    def _stand_ins(self, file: str, one: Object, now: float, report: Report) -> Iterator[Resource]:
        """What takes the place of an object that cannot be used, the best first; ``report`` grows meanwhile."""
        if self._waits_since(file, now) is not None:
            yield self._good[file]
        shut = closed(one)
        if shut is not None:
            yield shut
        left_out = frozenset[str]()
        while True:
            wrong = wrong_parts(one, (each for each in report.errors() if each.at.file == file))
            rest = without(one, wrong, report) if wrong > left_out else None
            if rest is None:
                return
            left_out = wrong
            yield rest

    def _gone(self, read: Container[str], now: float) -> dict[str, Resource]:
        """Secrets that were just deleted, by place: whoever replaces one does it in two steps, and in between nobody's
        port is to be closed.
        """
        return {
            file: one
            for file, one in self._good.items()
            if isinstance(one, Secret) and file not in read and self._waits_since(file, now) is not None
        }

    def _waits_since(self, file: str, now: float) -> float | None:
        """Since when the last good version stands in for an object; None: it does not, or not any more."""
        since = self._wrong_since.get(file, now)
        return since if file in self._good and now - since < self._grace_seconds else None

    def _newest(self, one: Object) -> _Read:
        """An object, read: again only if it says something else than it did."""
        known, version = self._read.get(place(one)), str(one["metadata"].get("resourceVersion", ""))
        if known is not None:
            if known.version == version and known.object.get("spec") == one.get("spec"):
                return known
            if not differ(known.object, one):
                return replace(known, version=version, object=one)
        report = Report()
        made = load_object(one, report)
        return _Read(version, one, made, report.diagnostics)

    def ours(self, one: Object) -> tuple[Object, bool] | None:
        """What of an object is for this mesh, and whether that is sure; None: it is others'."""
        return ours(one, self.present("Gateway", GATEWAY_API))

    def diagnostics(self) -> Sequence[dict[str, Any]]:
        """Everything wrong with the objects, and with our way to them."""
        return [*self._troubles(), *super().diagnostics()]

    def on_change(self, told: Callable[[], None]) -> None:
        """Call ``told`` after every change of what is in use, too."""
        self._listeners.append(told)

    def namespaces(self) -> list[str]:
        """Those that there are."""
        return [name for one in self.reflectors if one.kind.name == "Namespace" for _, name in one.objects]

    def present(self, name: str, group: str = "") -> list[Object]:
        """All objects of a kind, as the API server has them."""
        return [
            one
            for reflector in self.reflectors
            if (reflector.kind.name, reflector.kind.group) == (name, group)
            for one in list(reflector.objects.values())  # webhooks ask on threads of their own
        ]

    def state(self) -> State:
        """What is in force, and every object with what was found about it; of those that there are thousands of, and
        whose status is for others to write, only if something was found.

        An object whose newest version was not read yet is left out: its turn comes. A route that is bound to others'
        Gateways alone is there without its parents: of none of them we say anything.
        """
        found: dict[str, list[Diagnostic]] = {}
        for one in self._found:
            found.setdefault(one.at.file, []).append(one)
        objects = []
        for file, current in self._told_of(found):
            read = self._read.get(file)
            version, kind = str(current["apiVersion"]), str(current["kind"])
            if read is None and self._of_others.get(file, read) == _generation(current):
                objects.append(Told(version, kind, {**current, "spec": {}}))
                continue
            if read is None or file in self._wrong_since or _generation(read.object) != _generation(current):
                continue
            document = {**current, "spec": read.object.get("spec")}
            told = Told(version, kind, document, read.resource, tuple(found.get(file, ())), self._used.get(file))
            objects.append(told)
        return State(self.store, objects)

    def _told_of(self, found: Iterable[str]) -> Iterator[tuple[str, Object]]:
        """Place and newest version of those objects that somebody may be told about; places of which something was
        ``found`` are among them.
        """
        wrong = [self._read[file].object for file in found if file in self._read]
        for reflector in self.reflectors:
            keys: Iterable[Key] = reflector.objects
            if reflector.kind.name in _PLENTY:
                keys = [key_of(one) for one in wrong if one["kind"] == reflector.kind.name]
            for key in keys:
                current = reflector.objects.get(key)
                if current is not None:
                    yield reflector.place(key), current

    def _troubles(self) -> list[dict[str, Any]]:
        fault = {
            "at": "(all objects)",
            "severity": "error",
            "message": f"the configuration cannot be read: {self._fault}",
            "hint": "the last good one stays in use; this is a fault of pymesh, and its log tells more",
        }
        return [
            *([fault] if self._fault else ()),
            *(
                {
                    "at": str(Position(one.kind.title)),
                    "severity": "error",
                    "message": f"out of touch with the API server: {one.trouble}",
                    "hint": "what was known of it stays in force",
                }
                for one in self.reflectors
                if one.trouble
            ),
        ]

    def standing(self) -> dict[str, Any]:
        """Since when the configuration is in force."""
        return {
            **super().standing(),
            "outOfTouch": [one.kind.title for one in self.reflectors if one.trouble],
        }


def _generation(one: Object) -> object:
    """Of what its author wrote; kinds that count none have a version for each change."""
    meta = one["metadata"]
    return meta.get("generation") or meta.get("resourceVersion")
