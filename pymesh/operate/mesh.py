"""The admin pages of a control plane and of its proxies, fetched over HTTP.

The control plane knows who is connected; where a proxy's own pages are it knows from the node metadata
(`ADMIN_ADDRESS`). A page that does not come is a :class:`PageError` that says which, and how to go on.
"""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlencode

from pymesh.control.resources.diagnostics import did_you_mean
from pymesh.local import announced

T = TypeVar("T")
R = TypeVar("R")

DEFAULT_ADMIN = "127.0.0.1:15014"
_TIMEOUT_SECONDS = 10.0
_AT_ONCE = 16


class PageError(Exception):
    """A page that cannot be had: which, why, and what to do; for people."""


def page(address: str, path: str, timeout: float = _TIMEOUT_SECONDS) -> bytes:
    """A page of the admin server at ``HOST:PORT``. Raises :class:`PageError`."""
    url = f"http://{address}{path}"
    try:
        # Admin servers are reached directly, whatever proxy the environment names for others.
        with _opener.open(url, timeout=timeout) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise PageError(f"{url}: {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:
        raise PageError(f"{url}: {getattr(error, 'reason', error)}") from None


def json_page(address: str, path: str) -> Any:
    """The same, as the JSON that it is."""
    try:
        return json.loads(page(address, path))
    except ValueError as error:
        raise PageError(f"http://{address}{path} is not JSON: {error}") from None


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class ConnectedProxy:
    """One proxy, as the control plane tells of it."""

    node_id: str
    #: NAME.NAMESPACE.
    title: str
    namespace: str
    kind: str
    version: str
    #: Of its own admin pages, if it has told.
    admin: str | None
    #: The control plane's entry.
    synced: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The workload."""
        return self.title.rpartition(".")[0]

    @property
    def is_ours(self) -> bool:
        """Whether it has pages that only our proxies have."""
        return self.version.startswith("pymesh")

    def own_admin(self) -> str:
        """Where its pages are. Raises :class:`PageError`."""
        if self.admin is None:
            raise PageError(
                f"{self.title} does not say where its admin pages are\n"
                "hint: set ADMIN_ADDRESS: HOST:PORT in the node metadata of its bootstrap, or name HOST:PORT yourself"
            )
        return self.admin


def local_admin() -> str:
    """Of the one control plane that runs here. Raises :class:`PageError` if it is not the only one."""
    meshes = announced.found()
    if not meshes:
        return DEFAULT_ADMIN
    known = [f"{one.admin} (pymesh up {one.mesh})" for one in meshes]
    if DEFAULT_ADMIN not in (one.admin for one in meshes) and _listens(DEFAULT_ADMIN):
        known.append(DEFAULT_ADMIN)
    if len(known) > 1:
        raise PageError(f"several control planes run here: {', '.join(known)}\nhint: name one with --admin HOST:PORT")
    return meshes[0].admin


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1.0).close()
    except OSError:
        return False
    return True


class ControlPlane:
    """The control plane whose admin pages are at ``HOST:PORT``; without an address that which runs here."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    @cached_property
    def address(self) -> str:
        """Where its admin pages are. Raises :class:`PageError`."""
        return self._address or local_admin()

    def page(self, path: str, /, **query: str) -> Any:
        """One of its pages. Raises :class:`PageError`."""
        try:
            return json_page(self.address, f"{path}?{urlencode(query)}" if query else path)
        except PageError as error:
            hint = "hint: --admin is the control plane's admin address; 127.0.0.1:15014 unless told otherwise"
            raise PageError(f"{error}\n{hint}") from None

    @cached_property
    def proxies(self) -> tuple[ConnectedProxy, ...]:
        """Who is connected, by name."""
        merged: dict[str, Mapping[str, Any]] = {}
        for one in sorted(self.page("/debug/syncz"), key=lambda one: str(one["connected_at"])):
            merged[one["proxy"]] = _merged(merged.get(one["proxy"]), one)
        return tuple(sorted(map(_connected, merged.values()), key=lambda one: (one.title, one.node_id)))

    def find(self, wanted: str) -> ConnectedProxy:
        """The proxy of that name (NAME, NAME.NAMESPACE or a node id). Raises :class:`PageError`."""
        matching = [one for one in self.proxies if wanted in (one.name, one.title, one.node_id)]
        titles = sorted({one.title for one in matching})
        if len(titles) > 1:
            raise PageError(f"{wanted!r} may be {' or '.join(titles)}\nhint: name one of them")
        if not matching:
            known = [one.title for one in self.proxies]
            remedy = did_you_mean(wanted, known, otherwise="" if known else "no proxy is connected at all")
            raise PageError(f"no proxy {wanted!r} is connected to {self.address}\nhint: {remedy or ', '.join(known)}")
        return matching[-1]


def _merged(older: Mapping[str, Any] | None, newer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Two streams of one proxy: its successor's while it is relieved, or that of Envoy's companion, for secrets."""
    if older is None:
        return newer
    main = newer if len(newer["types"]) >= len(older["types"]) else older
    return {**main, "types": {**older["types"], **newer["types"]}}


def _connected(shown: Mapping[str, Any]) -> ConnectedProxy:
    parts = str(shown["proxy"]).split("~")
    kind, title = (parts[0], parts[2]) if len(parts) == 4 else ("?", str(shown["proxy"]))
    version = str(shown.get("version") or "")
    return ConnectedProxy(shown["proxy"], title, title.rpartition(".")[2], kind, version, shown.get("admin"), shown)


def each(function: Callable[[T], R], of: Iterable[T]) -> list[R]:
    """The results for all of them, several at a time, in order."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(function, of))
