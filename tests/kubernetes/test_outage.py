"""The API server or etcd is away: traffic and the rotation of certificates go on, and nothing is withdrawn.

Two sidecars with mutual TLS under mixed load, on a control plane that follows a cluster. Away for as long as a
certificate is replaced; `make test-kubernetes` has five minutes of it.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster import Cluster
from tests.lifecycle.load import Origins, load, origins
from tests.lifecycle.replica import PATIENCE
from tests.lifecycle.sidecars import NAMESPACE, Sidecars
from tests.lifecycle.test_no_request_lost import nothing_lost, traffic_flows
from tests.lifecycle.test_rotation import Leaves
from tests.proxy.running import eventually
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request

AWAY_SECONDS = 300.0 if "PYMESH_KUBERNETES_WHOLE" in os.environ else 0.0
#: Half a minute each: one of them is enough for every run.
HOW = ("the API server is stopped", "the API server hangs", "etcd is stopped")[: None if AWAY_SECONDS else 1]

Json = dict[str, Any]


@dataclass
class InCluster(Sidecars):
    """The mesh's resources are in a cluster."""

    cluster: Cluster | None = None

    @property
    def api(self) -> Cluster:
        assert self.cluster is not None
        return self.cluster

    def put_header(self, value: str) -> None:
        """Change what the client's sidecar adds to answers."""
        (virtual,) = (one for one in self._resources() if one["kind"] == "VirtualService")
        for rule in virtual["spec"]["http"]:
            rule["headers"] = {"response": {"set": {"x-turn": value}}}
        self.api.apply([virtual])

    def header(self) -> str | None:
        return fetch(self.outbound, Request("GET", "/", "server.load.svc.cluster.local")).header("x-turn")

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.control_admin}/ready", timeout=10) as page:
                return bool(page.status == 200)
        except OSError:
            return False

    def resources(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.control_admin}/debug/configz", timeout=10) as page:
            return len(json.load(page))

    def _publish(self, resources: Sequence[Json]) -> None:
        self.api.apply(resources)

    def _source(self) -> list[str]:
        return ["--kubernetes", "--kubeconfig", str(self.api.kubeconfig)]


@pytest.fixture(scope="module", name="behind")
def _behind() -> Iterator[Origins]:
    with origins() as made:
        yield made


@pytest.fixture(name="mesh")
def _mesh(mesh_apis: Cluster, behind: Origins, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[InCluster]:
    lifetime = getattr(request, "param", "12s")
    with mesh_apis.namespace(NAMESPACE), ExitStack() as stack:
        made = InCluster(tmp_path / "mesh", behind, stack, lifetime=lifetime, cluster=mesh_apis)
        made.start()
        yield made


@contextmanager
def away(cluster: Cluster, how: str) -> Iterator[None]:
    """One of the servers is not there, or does nothing, for the length of the block."""
    begin: dict[str, Callable[[], object]] = {
        "the API server is stopped": cluster.apiserver.stop,
        "the API server hangs": cluster.apiserver.freeze,
        "etcd is stopped": cluster.etcd.stop,
    }
    try:
        begin[how]()
        yield
    finally:
        cluster.apiserver.thaw()
        cluster.etcd.start()
        cluster.start_apiserver()


@pytest.mark.parametrize("how", HOW)
def test_what_is_known_stays_in_force(how: str, mesh: InCluster) -> None:
    leaves = Leaves(mesh)
    known = mesh.resources()
    mesh.put_header("before")
    assert eventually(lambda: mesh.header() == "before", PATIENCE)
    with load([mesh.outbound]) as tally:
        traffic_flows(tally)
        with away(mesh.api, how):
            began = time.monotonic()
            assert eventually(lambda: leaves.rotated(1), PATIENCE), leaves.seen
            assert eventually(lambda: time.monotonic() - began >= AWAY_SECONDS, AWAY_SECONDS + PATIENCE)
            assert mesh.resources() == known
            assert mesh.header() == "before"
            nothing_lost(tally)
            traffic_flows(tally)
        mesh.put_header("after")
        assert eventually(lambda: mesh.header() == "after", PATIENCE)
        nothing_lost(tally)
    assert mesh.resources() == known


# A control plane that is killed takes a while to start, and nobody signs meanwhile.
@pytest.mark.parametrize("mesh", ["10m"], indirect=True)
def test_who_starts_while_it_is_away_serves_nothing_until_it_has_seen_everything(mesh: InCluster) -> None:
    mesh.put_header("before")
    assert eventually(lambda: mesh.header() == "before", PATIENCE)
    with load([mesh.outbound]) as tally:
        mesh.kill_control()
        with away(mesh.api, "the API server is stopped"):
            mesh.start_control()
            assert not mesh.ready()
            traffic_flows(tally)
            assert mesh.header() == "before"
        assert eventually(mesh.ready, PATIENCE)
        mesh.put_header("after")
        assert eventually(lambda: mesh.header() == "after", PATIENCE)
        nothing_lost(tally)
