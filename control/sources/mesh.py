"""The mesh that files describe: the last good store, and each proxy's messages from it."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pymesh.control.analysis import analyze, coded
from pymesh.control.description import describe
from pymesh.control.live import inventory
from pymesh.control.live.inventory import Known, KnownService
from pymesh.control.resources.diagnostics import Diagnostic, Position, Report
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.workloads import WorkloadEntry
from pymesh.control.sources import files
from pymesh.control.store import addresses
from pymesh.control.store.store import MeshOptions, Store, assemble
from pymesh.control.store.workloads import Locality
from pymesh.control.translate import translate
from pymesh.control.translate.origins import Origins
from pymesh.control.translate.proxy import Proxy, ProxyError

log = logging.getLogger(__name__)


class DescribedNode(Protocol):
    """What a proxy says of itself when it connects."""

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


class FileMesh:
    """Users' configuration in folders, kept current."""

    def __init__(self, folders: Sequence[Path], options: MeshOptions | None = None) -> None:
        self._folders = tuple(folders)
        self._options = options or MeshOptions()
        self._resources: Sequence[Resource] = ()
        self._found: tuple[Diagnostic, ...] = ()
        #: File -> its resources, in their order there.
        self._owners: dict[str, list[Resource]] = {}
        #: Namespace and name of a workload -> its service account.
        self._accounts: dict[tuple[str, str], str] = {}
        self._warned: set[tuple[str, Diagnostic]] = set()
        self._in_force_since: datetime | None = None
        self._refused_since: datetime | None = None
        self._known: tuple[Sequence[Known], Sequence[KnownService]] = ((), ())
        self.store = Store(self._options)

    def load(self) -> list[str]:
        """Read everything. Returns all errors; with any, what was in use stays in use."""
        report = Report()
        resources = files.read(self._folders, report)
        store = assemble(resources, self._options, report)
        self._found = report.diagnostics
        now = datetime.now(UTC)
        if report.failed:
            self._refused_since = self._refused_since or now
            return [str(one) for one in report.diagnostics if one.severity == "error"]
        self.store, self._resources = store, resources
        self._in_force_since, self._refused_since = now, None
        self._known = inventory.configured(store, (one for one in resources if isinstance(one, WorkloadEntry)))
        self._owners = _by_file(resources)
        self._accounts = {
            (one.namespace, one.name): one.spec.service_account
            for one in resources
            if isinstance(one, WorkloadEntry) and one.spec.service_account
        }
        self._warned.clear()
        for one in report.diagnostics:
            log.warning(str(one))
        return []

    async def watch(self, changed: Callable[[], None]) -> None:
        """Follow the folders until cancelled; call ``changed`` after every change of what is in use."""
        async for _ in files.changes(self._folders):
            # Parsing takes long enough to hold up the streams, so it happens beside them.
            errors = await asyncio.to_thread(self.load)
            if errors:
                log.error("configuration refused, the last good one stays in use\n%s", "\n".join(errors))
            else:
                changed()

    def messages(self, node: DescribedNode) -> Mapping[str, Mapping[str, Any]]:
        """What a proxy should have: type URL -> name -> message. Raises ``ProxyError``."""
        proxy = _proxy(node)
        if node.identity is not None:
            self._check_place(proxy)
        made = translate(self.store, proxy)
        for one in made.warnings:
            if (proxy.name, one) not in self._warned:
                self._warned.add((proxy.name, one))
                log.warning(str(one))
        return made.messages

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
        known, owners = Origins(self.store, _proxy(node)), self._owners

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

    def standing(self) -> dict[str, Any]:
        """Since when the configuration is in force, and since when newer files are refused (None: they are not)."""
        times = {"inForceSince": self._in_force_since, "refusedSince": self._refused_since}
        return {key: time and time.isoformat() for key, time in times.items()}

    def known(self) -> tuple[Sequence[Known], Sequence[KnownService]]:
        """The workloads and services that the configuration in use tells of."""
        return self._known

    def names(self) -> Mapping[str, Any]:
        """Host -> its addresses: Istio's name table."""
        return addresses.names(self.store.services)

    def diagnostics(self) -> Sequence[dict[str, Any]]:
        """Everything wrong with the newest files: what, where, hint."""
        return [
            {"at": str(one.at), "severity": one.severity, "message": one.message, "hint": one.hint}
            for one in self._found
        ]


def _proxy(node: DescribedNode) -> Proxy:
    return Proxy.parse(node.id, node.metadata, node.user_agent, Locality(*node.locality))


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
