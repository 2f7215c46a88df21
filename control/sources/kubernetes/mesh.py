"""The mesh that a Kubernetes API server describes.

One reflector for each kind; when something has changed, and nothing more for a moment, everything is read anew beside
the streams. An object that cannot be used is left out and told of, the rest of the mesh goes on. What is in force
depends on nothing but what the server has, so that it is the same after a crash, a missed event or a detour, with one
exception that ends by itself: an object that has just become wrong keeps its last good version for a moment, since what
it refers to may be on its way by another watch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pymesh.control.resources.closed import closed
from pymesh.control.resources.diagnostics import ConfigError, Diagnostic, Position, Report
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import Object, load_object, place
from pymesh.control.sources.kubernetes.client import ApiClient
from pymesh.control.sources.kubernetes.kinds import watched
from pymesh.control.sources.kubernetes.reflector import Reflector
from pymesh.control.sources.kubernetes.selection import for_mesh
from pymesh.control.sources.kubernetes.status import State
from pymesh.control.sources.stored import StoredMesh
from pymesh.control.status.objects import Object as Told
from pymesh.control.store.refreshed import refreshed
from pymesh.control.store.store import MeshOptions
from pymesh.control.store.usable import assemble_usable

log = logging.getLogger(__name__)

#: Changes that belong together come by several watches; this is how long they may take.
SETTLE_SECONDS: Final = 0.02
#: How long the last good version of an object stands in for one that has become wrong.
GRACE_SECONDS: Final = 2.0
#: After a fault nothing is read for this long; then everything is.
_FAULT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Read:
    """What one version of an object was read as."""

    version: str
    object: Object
    resource: Resource | None
    found: tuple[Diagnostic, ...]


class KubernetesMesh(StoredMesh):
    """Users' configuration in an API server, kept current."""

    def __init__(
        self,
        client: ApiClient,
        options: MeshOptions | None = None,
        *,
        settle_seconds: float = SETTLE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        relist_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(options)
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
        #: What is in force, by place.
        self._used: dict[str, Resource] = {}
        #: The last version of each object that was right, by place, and since when it stands in for a wrong one.
        self._good: dict[str, Resource] = {}
        self._wrong_since: dict[str, float] = {}
        self._told: set[Diagnostic] = set()
        #: Why the newest configuration could not be read at all; empty while it can.
        self._fault = ""
        self._listeners: list[Callable[[], None]] = []

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
            objects = [one for reflector in self.reflectors for one in reflector.objects.values()]
            try:
                # Reading takes long enough to hold up the streams, so it happens beside them.
                is_used = await asyncio.to_thread(self._replace, objects, self._clock())
                self._fault = ""
            except Exception as error:
                # A fault of ours must not end what still serves the last good configuration.
                log.exception("the configuration cannot be read, the last good one stays in use")
                self._fault = repr(error)
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

    def _replace(self, objects: Iterable[Object], now: float) -> bool:
        """Put these objects in force; False: they cannot be, and what was stays."""
        read = self._all_read(for_mesh(objects))
        if self._synced.is_set() and not self._wrong_since and self._refresh(read):
            return True
        report = Report()
        others: dict[str, Iterator[Resource]] = {}

        def stand_in(file: str) -> Resource | None:
            return next(others.setdefault(file, self._stand_ins(file, read[file].object, now)), None)

        usable = []
        for file, one in read.items():
            report.add(one.found)
            resource = one.resource or stand_in(file)
            usable += [resource] if resource is not None else []
        try:
            store, resources = assemble_usable(usable, self._options, report, stand_in)
        except ConfigError as error:
            log.error("the configuration cannot be used, the last good one stays in use\n%s", error)
            return False
        waiting = {file: since for file in others if (since := self._waits_since(file, now)) is not None}
        right = {one.at.file: one for one in resources if one.at.file not in others}
        self._good = {**right, **{file: self._good[file] for file in waiting}}
        self._wrong_since, self._read, self._found = waiting, read, report.diagnostics
        self._used = {one.at.file: one for one in resources}
        self._use(store, resources)
        for told in set(report.diagnostics) - self._told:
            log.warning(str(told))
        self._told = set(report.diagnostics)
        return True

    def _refresh(self, read: dict[str, _Read]) -> bool:
        """Put them in force if they differ from those that are in nothing but endpoints."""
        used, moved = dict(self._used), list[Resource]()
        for file in read.keys() | self._read.keys():
            before, now = self._read.get(file), read.get(file)
            if before is now:
                continue
            if any(one is not None and (one.found or one.resource is None) for one in (before, now)):
                return False
            used.pop(file, None)
            # Also what was left out: then more than endpoints has changed.
            moved += [one.resource for one in (before, now) if one is not None and one.resource is not None]
            if now is not None and now.resource is not None:
                used[file] = now.resource
        resources = list(used.values())
        store = refreshed(self.store, resources, moved)
        if store is None:
            return False
        self._read, self._used = read, used
        self._good |= {file: one for file, one in used.items() if file in self._good}
        self._use(store, resources)
        return True

    def _stand_ins(self, file: str, one: Object, now: float) -> Iterator[Resource]:
        """What takes the place of an object that cannot be used, the best first."""
        if self._waits_since(file, now) is not None:
            yield self._good[file]
        shut = closed(one)
        if shut is not None:
            yield shut

    def _waits_since(self, file: str, now: float) -> float | None:
        """Since when the last good version stands in for an object; None: it does not, or not any more."""
        since = self._wrong_since.get(file, now)
        return since if file in self._good and now - since < self._grace_seconds else None

    def _all_read(self, objects: Sequence[Object]) -> dict[str, _Read]:
        found = {}
        for one in objects:
            file, version = place(one), str(one["metadata"].get("resourceVersion", ""))
            known = self._read.get(file)
            if known is None or known.version != version or known.object.get("spec") != one.get("spec"):
                report = Report()
                made = load_object(one, report)
                known = _Read(version, one, made, report.diagnostics)
            found[file] = known
        return found

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
            for one in reflector.objects.values()
        ]

    def state(self) -> State:
        """What is in force, and every object with what was found about it.

        An object whose newest version was not read yet is left out: its turn comes.
        """
        found: dict[str, list[Diagnostic]] = {}
        for one in self._found:
            found.setdefault(one.at.file, []).append(one)
        objects = []
        for current in [one for reflector in self.reflectors for one in reflector.objects.values()]:
            file = place(current)
            read = self._read.get(file)
            if read is None or file in self._wrong_since or _generation(read.object) != _generation(current):
                continue
            document = {**current, "spec": read.object.get("spec")}
            version, kind = str(current["apiVersion"]), str(current["kind"])
            objects.append(Told(version, kind, document, read.resource, tuple(found.get(file, ()))))
        return State(self.store, objects)

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
