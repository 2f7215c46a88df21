"""A mesh that follows a cluster on a thread of its own, and what its proxies would be sent."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymesh.control.sources.kubernetes import access
from pymesh.control.sources.kubernetes.client import ApiClient
from pymesh.control.sources.kubernetes.mesh import KubernetesMesh
from pymesh.control.sources.stored import StoredMesh
from pymesh.control.store.store import MeshOptions
from pymesh.control.xds import pb

#: Type URL, name -> the encoded message, for each proxy.
Configuration = dict[str, dict[tuple[str, str], bytes]]


@dataclass(frozen=True, eq=False)
class Described:
    """A proxy, as its stream would describe it."""

    id: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    user_agent: str = ""
    locality: tuple[str, str, str] = ("", "", "")
    identity: object | None = None
    reads_secrets: bool = True


class Followed:
    """The mesh, while it follows."""

    def __init__(self, mesh: KubernetesMesh) -> None:
        self.mesh = mesh
        self._changes = 0
        self._condition = threading.Condition()

    def noted(self) -> None:
        """Something else is in force."""
        with self._condition:
            self._changes += 1
            self._condition.notify_all()

    def until(self, holds: Callable[[KubernetesMesh], Any], timeout: float = 60) -> None:
        """Wait for something that holds after some change."""
        deadline = time.monotonic() + timeout
        with self._condition:
            while not holds(self.mesh):
                left = deadline - time.monotonic()
                # What is wrong, or out of touch, is no change of what is in force: looked at now and then.
                if not self._condition.wait(min(left, 0.1)) and left <= 0:
                    raise AssertionError(f"it never held; diagnostics: {self.mesh.diagnostics()}")


@contextmanager
def following(
    kubeconfig: Path, *, client: type[ApiClient] = ApiClient, mesh_options: MeshOptions | None = None, **settings: Any
) -> Iterator[Followed]:
    """Follow a cluster for the length of a block, from the first whole view on."""
    held: dict[str, Any] = {}
    ready = threading.Event()

    async def main() -> None:
        mesh = KubernetesMesh(client(access.find(kubeconfig)), mesh_options, **settings)
        held["followed"] = followed = Followed(mesh)
        held["loop"] = asyncio.get_running_loop()
        held["task"] = task = asyncio.create_task(mesh.watch(followed.noted))
        synced = asyncio.create_task(mesh.synced())
        await asyncio.wait((task, synced), return_when=asyncio.FIRST_COMPLETED)
        ready.set()
        await asyncio.wait((task,))
        if not task.cancelled() and task.exception() is not None:
            held["failure"] = task.exception()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            held["failure"] = error
        ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        if not ready.wait(60) or "failure" in held:
            raise held.get("failure") or AssertionError("the mesh was not seen whole within a minute")
        yield held["followed"]
    finally:
        if "task" in held:
            held["loop"].call_soon_threadsafe(held["task"].cancel)
        thread.join(30)
        with warnings.catch_warnings():
            # httpcore2 drops a connection whose TLS handshake is cancelled, as at the end of a process.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
    if "failure" in held:
        raise held["failure"]


def configuration(mesh: StoredMesh, proxies: Sequence[Described]) -> Configuration:
    """Everything that each proxy would be sent, byte by byte."""
    return {
        one.id: {
            (url, name): pb.encode(message)
            for url, named in mesh.messages(one).items()
            for name, message in named.items()
        }
        for one in proxies
    }
