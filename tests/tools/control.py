"""The control plane on a thread of its own, over a mesh that a test makes of messages."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymesh.control.app import ControlPlane
from pymesh.control.config import Address, Settings
from pymesh.control.identity import private_files
from pymesh.control.xds import pb
from pymesh.control.xds.node import Node

ANY_PORT = Address("127.0.0.1", 0)


class Mesh:
    """The same messages for every proxy; `put` replaces some while the mesh runs."""

    def __init__(self, *messages: Any) -> None:
        self._messages: dict[str, dict[str, Any]] = {}
        self._watching = threading.Event()
        self._changed: Callable[[], object] = lambda: None
        self._take(messages)

    def put(self, *messages: Any) -> None:
        """Add or replace resources, and tell the proxies."""
        if not self._watching.wait(10):
            raise RuntimeError("the control plane does not watch")
        self._take(messages)
        self._changed()

    def _take(self, messages: Sequence[Any]) -> None:
        for one in messages:
            url = pb.type_url(one)
            name = one.cluster_name if url == pb.ENDPOINTS else one.name
            self._messages.setdefault(url, {})[name] = one

    def load(self) -> list[str]:
        """Nothing to read."""
        return []

    async def synced(self) -> None:
        """It is there already."""

    async def watch(self, changed: Callable[[], None]) -> None:
        """Pass changes on to the loop."""
        loop = asyncio.get_running_loop()
        self._changed = lambda: loop.call_soon_threadsafe(changed)
        self._watching.set()
        await asyncio.Event().wait()

    def gone(self, node: Node) -> None:
        """Nothing is kept."""

    def messages(self, node: Node) -> Mapping[str, Mapping[str, Any]]:
        """Everything."""
        return {url: dict(named) for url, named in self._messages.items()}

    def resources(self) -> Sequence[dict[str, Any]]:
        """Nothing that a file describes."""
        return []

    def names(self) -> Mapping[str, Any]:
        """Nobody has a name."""
        return {}

    def diagnostics(self) -> Sequence[dict[str, Any]]:
        """Nothing wrong."""
        return []


def tokens(folder: Path, token: str, *, account: str = "cart", namespace: str = "shop") -> Path:
    """A token file that lets one workload in."""
    path = folder / "tokens.json"
    hashed = hashlib.sha256(token.encode()).hexdigest()
    private_files.write(path, json.dumps({hashed: {"namespace": namespace, "serviceAccount": account}}).encode())
    return path


@contextmanager
def control_plane(folder: Path, mesh: Mesh, **settings: Any) -> Iterator[ControlPlane]:
    """A control plane with its state in `folder`."""
    values = {"config": (folder,), "state": folder / "state", "listen": ANY_PORT, "admin": ANY_PORT}
    made = Settings(**{**values, **settings})
    serving = threading.Event()
    held: dict[str, Any] = {}

    async def main() -> None:
        held["loop"], held["stop"] = asyncio.get_running_loop(), asyncio.Event()
        held["plane"] = ControlPlane(made, mesh)
        await held["plane"].run(held["stop"], serving.set)

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # it is raised again where the test sees it
            held["failure"] = error
            serving.set()

    thread = threading.Thread(target=run)
    thread.start()
    if not serving.wait(20) or "failure" in held:
        raise held.get("failure") or RuntimeError("the control plane did not start")
    try:
        yield held["plane"]
    finally:
        held["loop"].call_soon_threadsafe(held["stop"].set)
        thread.join(20)
        if thread.is_alive() or "failure" in held:
            raise held.get("failure") or RuntimeError("the control plane did not stop")
