"""Control planes of one cluster, outside of it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.kubernetes.cluster import Cluster
from tests.proxy.running import pymesh
from tests.tools.processes import Running, running


class Planes:
    """Control planes of one cluster."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._stack = ExitStack()
        self.running: dict[str, Running] = {}

    def start(self, name: str) -> Running:
        state = self._folder / name
        argv = [*pymesh(), "control", "--kubernetes", "--kubeconfig", str(self._cluster.kubeconfig)]
        argv += ["--state", str(state), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--auto-allocate"]
        made = self._stack.enter_context(running(argv, title=f"control plane {name}"))
        self.running[name] = made
        return made

    def close(self) -> None:
        self._stack.close()

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{one.tail(60)}" for name, one in self.running.items())
