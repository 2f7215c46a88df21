"""A mesh as its resources describe it: who is in it, and what each proxy hears.

Made once for all meshes of a process that are built from the same resources: what a seed costs is its proxies alone.
Identities are of an authority that lives as long as the process; nothing of their keys shows in a transcript.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pymesh.control.resources.diagnostics import did_you_mean
from pymesh.control.sources.files import SUFFIXES
from pymesh.explain.credentials import Credentials
from pymesh.explain.files import Change, FileSource
from pymesh.explain.prepare import Names, prepared
from pymesh.explain.source import Member, SourceError
from pymesh.explain.tokens import Signer
from pymesh.explain.told import Entrance, Told, candidates, split
from pymesh.simulated import proxy as heard
from pymesh.testing.errors import MeshError

#: When every mesh begins: 2026-01-01, midnight.
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a mesh is made from."""

    paths: tuple[Path, ...] = ()
    #: What has no file, and what goes, in this order.
    changes: tuple[Change, ...] = ()

    @classmethod
    def of(cls, given: Sequence[str | Path]) -> Resources:
        """Paths, and texts: what has more than a line."""
        paths, changes = [], []
        for number, one in enumerate(given, 1):
            if isinstance(one, str) and "\n" in one:
                changes.append(Change(f"text {number}", one))
            else:
                paths.append(Path(one))
        return cls(tuple(paths), tuple(changes))

    def changed(self, change: Change) -> Resources:
        """After another change."""
        return replace(self, changes=(*self.changes, change))

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Changes when a file does."""
        files = [
            file
            for path in self.paths
            for file in ([path] if path.is_file() else sorted(path.rglob("*")))
            if file.suffix in (*SUFFIXES, ".py") and file.is_file()
        ]
        return tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)


_LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a connection comes out."""

    place: str
    #: Of the proxy that is there; None: at the application.
    listener: str | None
    is_redirected: bool = False


class Blueprint:
    """See the module."""

    def __init__(self, resources: Resources, names: Names) -> None:
        try:
            self.source = FileSource(resources.paths, changes=resources.changes)
        except SourceError as error:
            raise MeshError(str(error)) from None
        self.members: Sequence[Member] = self.source.members()
        self.names = names
        self.told = {one: Told.of(self.source, one) for one in self.members}
        trust_domain = self.source.trust_domain
        secrets = {one: _secrets(trust_domain, one.identity) for one in self.members}
        self.messages: Mapping[Member, Mapping[str, Mapping[str, Any]]] = {
            one: prepared(self.told[one].messages, secrets[one], names, signer(), at_rest=False) for one in self.members
        }
        self.steps = {one: heard.steps(self.messages[one]) for one in self.members}
        #: Workload -> where it is, also of those without a proxy.
        self.addresses: dict[str, str] = {one.title: one.address for one in self.members}
        #: Host of a service -> its workloads.
        self.behind: dict[str, set[str]] = {}
        #: Port of a workload without a proxy -> it.
        self.bare: dict[str, str] = {}
        for service in self.source.store.services.values():
            for backend in (one for ported in service.backends.values() for one in ported):
                workload = backend.workload
                title = f"{workload.name}.{workload.namespace}"
                self.behind.setdefault(service.host, set()).add(title)
                if not workload.in_mesh:
                    self.bare[f"{workload.address}:{backend.port}"] = title

        self._arrivals: dict[tuple[str, str], Arrival | None] = {}
        self._entrances: dict[tuple[str, str, int], Entrance | None] = {}
        self._changes: dict[tuple[Blueprint, Member], list[bytes | None]] = {}

    def entrance(self, member: Member, host: str, port: int) -> Entrance | None:
        """How an application reaches a port of a service; None if its proxy does not know it."""
        key = member.title, host, port
        if key not in self._entrances:
            told = self.told[member]
            meant = next((one for one in candidates(host, member.namespace, told.services)), None)
            self._entrances[key] = told.entrance(meant, port) if meant and port in told.services[meant] else None
        return self._entrances[key]

    def arrival(self, sender: str, address: str) -> Arrival | None:
        """Where a connection from the proxy of a workload to an address comes out."""
        key = sender, address
        if key not in self._arrivals:
            self._arrivals[key] = self._find(sender, address)
        return self._arrivals[key]

    def _find(self, sender: str, address: str) -> Arrival | None:
        ip, port = split(address)
        for member in self.members:
            if ip not in (member.address, *_LOOPBACK):
                continue
            told = self.told[member]
            wild = told.bound.get(f"0.0.0.0:{port}") or told.bound.get(f"[::]:{port}")
            is_other = member.title != sender and ip == member.address
            listener = told.bound.get(address) or (wild if is_other else None)
            if listener is not None:
                return Arrival(member.title, listener)
            if told.is_captured and is_other:
                return Arrival(member.title, "virtualInbound", is_redirected=True)
        if ip in (*_LOOPBACK, self.addresses.get(sender)):
            return Arrival(sender, None)
        outside = self.bare.get(address) or self.names.name(ip)
        return Arrival(outside, None) if outside else None

    def changes(self, before: Blueprint, member: Member) -> list[bytes | None]:
        """What a proxy that has heard the other blueprint has to hear."""
        key = before, member
        if key not in self._changes:
            self._changes[key] = heard.changes(before.messages.get(member, {}), self.messages[member])
        return self._changes[key]

    def places(self, name: str) -> list[str]:
        """The workloads, or the host outside, that a name means: of a workload, or of a service."""
        titles = sorted({*self.addresses, *self.bare.values()})
        for found in (
            [one for one in titles if one == name],
            [one for one in titles if one.rpartition(".")[0] == name],
            sorted(self.behind.get(name, ())),
            sorted({one for host, ones in self.behind.items() if host.startswith(f"{name}.") for one in ones}),
        ):
            if found:
                return found
        outside = {host for told in self.told.values() for host in told.services if not self.behind.get(host)}
        if name in {*outside, *self.names.known}:
            return [name]
        short = {one.partition(".")[0] for one in (*titles, *self.behind)}
        hint = did_you_mean(name, [*titles, *self.behind, *outside, *short])
        raise MeshError(f"there is neither a service nor a workload {name!r}\nhint: {hint}")


def blueprint(resources: Resources) -> Blueprint:
    """That of these resources, made once. Raises :class:`MeshError`."""
    return _made(resources, resources.stamp(), None)


def changed(before: Blueprint, resources: Resources) -> Blueprint:
    """That of a mesh whose resources have changed: names in DNS keep their addresses."""
    return _made(resources, resources.stamp(), before)


@functools.lru_cache(maxsize=64)
def _made(resources: Resources, stamp: object, before: Blueprint | None) -> Blueprint:
    return Blueprint(resources, Names(dict(before.names.known) if before else {}))


@functools.lru_cache(maxsize=1)
def signer() -> Signer:
    """Signs the tokens that the meshes of this process believe."""
    return Signer(BEGIN)


@functools.lru_cache(maxsize=8)
def _credentials(trust_domain: str) -> Credentials:
    return Credentials(trust_domain, BEGIN)


@functools.lru_cache(maxsize=1024)
def _secrets(trust_domain: str, identity: str | None) -> dict[str, Any]:
    return _credentials(trust_domain).secrets(identity)
