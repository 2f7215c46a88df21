"""Measures control planes on one API server: `python -m bench.control [--services N] [--sidecars N] [--only NAME]`.

The API server, etcd, the sidecars (`tests/tools/xdsclients`) and the control plane share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.control.planes import PLANES, Plane
from bench.control.world import World
from tests.kubernetes import crds
from tests.kubernetes.cluster import Cluster
from tests.tools.peers import peer


class Sidecars:
    """The fleet's process, spoken to line by line."""

    def __init__(self, folder: Path, address: str, nodes: Any) -> None:
        file = folder / "nodes.json"
        file.write_text(json.dumps(nodes))
        argv = [peer("xds-clients"), "-addr", address, "-nodes", str(file)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def __enter__(self) -> Sidecars:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, *words: str, meanwhile: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Say a command, do something, and return what they tell when it has come true."""
        assert self._process.stdin is not None
        self._process.stdin.write("mark\n" + " ".join(words) + "\n")
        self._process.stdin.flush()
        meanwhile()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the sidecars have ended")
        found: dict[str, Any] = json.loads(line)
        return found


def measure(plane: Plane, cluster: Cluster, world: World, folder: Path, changes: int, subnet: int) -> dict[str, float]:
    """One control plane: the first sync of everybody, then single changes."""
    idle = plane.cpu()
    with Sidecars(folder, plane.address, world.nodes()) as sidecars:
        synced = sidecars.ask("start")
        time.sleep(1)
        cpu, memory = plane.cpu() - idle, plane.memory()
        seconds, costs = [], []
        for number in range(changes):
            new = f"10.{subnet}.0.{number + 1}"
            before = plane.cpu()
            began = time.monotonic()
            sidecars.ask("wait", new, meanwhile=lambda n=number, a=new: world.change(cluster, n, a))  # type: ignore[misc]
            seconds.append(time.monotonic() - began)
            time.sleep(1.5)
            costs.append(plane.cpu() - before)
        return {
            "ready_seconds": plane.start,
            "ready_cpu": idle,
            "sync_seconds": synced["seconds"],
            "sync_cpu": cpu,
            "sidecar_mib": synced["bytes"] / 2**20,
            "change_seconds": statistics.median(seconds),
            "change_seconds_worst": max(seconds),
            "change_cpu": statistics.median(costs),
            "resident_mib": memory,
        }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--sidecars", type=int, default=500)
    parser.add_argument("--changes", type=int, default=7)
    parser.add_argument("--only", nargs="*", choices=list(PLANES), default=["pymesh"])
    asked = parser.parse_args()
    world = World(asked.services, asked.endpoints, asked.sidecars)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Cluster.running(folder) as cluster:
            crds.install(cluster)
            cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}}])
            world.fill(cluster)
            for subnet, one in enumerate(asked.only, start=200):
                own = folder / one
                own.mkdir()
                with PLANES[one](cluster, own) as plane:
                    found = measure(plane, cluster, world, own, asked.changes, subnet)
                print(one, json.dumps({key: round(value, 3) for key, value in found.items()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
