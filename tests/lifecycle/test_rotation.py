"""Certificates and roots are replaced under mixed traffic through two sidecars: no request is lost.

Leaves live for twelve seconds, so each sidecar replaces its own every six or less. Roots go through the three phases by
`pymesh ca`, and the control plane is killed in the middle of a rotation, each time in another phase. Somebody whose
certificate leads to the removed root alone is refused, and his connection ended, within five seconds.

Two leaves and one root by default; `make lifecycle` does twenty and three, and again with a real Envoy as the
server's sidecar.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lifecycle import prober
from tests.lifecycle.load import Origins, load, origins
from tests.lifecycle.replica import PATIENCE, ROUNDS
from tests.lifecycle.sidecars import PROBER, Sidecars
from tests.lifecycle.test_no_request_lost import nothing_lost, report, traffic_flows
from tests.proxy.running import eventually

IS_LONG = ROUNDS > 5
LEAVES, ROOTS = (20, 3) if IS_LONG else (2, 1)
#: What must hold for somebody whose root is gone.
REFUSED_SECONDS = 5.0
NODE = f"sidecar~127.0.0.1~{PROBER}.load~load.svc.cluster.local"


class Leaves:
    """Serial numbers of each sidecar's own certificates, in the order in which they were seen."""

    def __init__(self, mesh: Sidecars) -> None:
        self._mesh = mesh
        self.seen: dict[str, list[str]] = defaultdict(list)

    def look(self) -> None:
        for name, port in self._mesh.admins.items():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/certs", timeout=10) as page:
                entries = json.load(page)["certificates"]
            chains = [entry["cert_chain"] for entry in entries if entry["cert_chain"]]
            serial = chains[0][0]["serial_number"] if chains else ""
            if serial and serial not in self.seen[name]:
                self.seen[name].append(serial)

    def rotated(self, times: int) -> bool:
        self.look()
        return all(len(self.seen[name]) > times for name in self._mesh.admins)


def roots_shown(mesh: Sidecars) -> set[int]:
    """How many roots each sidecar shows that it trusts."""
    found = set()
    for port in mesh.admins.values():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/certs", timeout=10) as page:
            entries = json.load(page)["certificates"]
        found |= {len(entry["ca_cert"]) for entry in entries if entry["ca_cert"]}
    return found


def rotate(mesh: Sidecars, crash_after: str) -> tuple[float, float]:
    """One root gives way to another.

    After how many seconds somebody of the old one was not let in any more, and his connection had ended.
    """

    def crash(phase: str) -> None:
        if phase == crash_after:
            mesh.kill_control()
            mesh.start_control()

    old = prober.obtain(mesh.control_port, mesh.root, mesh.tokens[PROBER], NODE)
    port = mesh.inbound[0]
    with prober.knock(port, old, mesh.folder) as standing:
        mesh.phase("prepare")
        crash("prepare")
        assert eventually(lambda: roots_shown(mesh) == {2}, PATIENCE)
        # Nobody holds up the next phase; the proxies do for as long as they need.
        prober.obtain(mesh.control_port, mesh.root, mesh.tokens[PROBER], NODE)
        mesh.phase("activate")
        crash("activate")
        prober.obtain(mesh.control_port, mesh.root, mesh.tokens[PROBER], NODE)
        assert prober.is_let_in(port, old, mesh.folder)
        mesh.phase("revoke")
        began = time.monotonic()
        crash("revoke")
        assert eventually(lambda: not prober.is_let_in(port, old, mesh.folder), PATIENCE)
        refused = time.monotonic() - began
        if "server" not in mesh.envoy:  # Envoy lets connections stand
            assert eventually(lambda: not prober.is_open(standing), PATIENCE)
        ended = time.monotonic() - began
    assert eventually(lambda: roots_shown(mesh) == {1}, PATIENCE)
    return refused, ended


@pytest.fixture(scope="module", name="behind")
def _behind() -> Iterator[Origins]:
    with origins() as made:
        yield made


@pytest.fixture(name="mesh", params=[(), ("server",)] if IS_LONG else [()], ids=lambda of: "beside-envoy" if of else "")
def _mesh(behind: Origins, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Sidecars]]:
    with ExitStack() as stack:

        def start(lifetime: str) -> Sidecars:
            mesh = Sidecars(tmp_path / "mesh", behind, stack, request.param, lifetime)
            mesh.start()
            return mesh

        yield start


def test_leaves_rotate(mesh: Callable[[str], Sidecars]) -> None:
    running = mesh("12s")
    leaves = Leaves(running)
    with load([running.outbound]) as tally:
        traffic_flows(tally)
        assert eventually(lambda: bool(tally.lost) or leaves.rotated(LEAVES), PATIENCE * LEAVES), leaves.seen
        nothing_lost(tally)
        traffic_flows(tally)
    nothing_lost(tally)
    report("or more leaves", tally, LEAVES)


def test_roots_rotate(mesh: Callable[[str], Sidecars]) -> None:
    running = mesh("1h")
    took: list[tuple[float, float]] = []
    with load([running.outbound]) as tally:
        traffic_flows(tally)
        for crash_after in ("activate", "prepare", "revoke")[:ROOTS]:
            times = rotate(running, crash_after)
            took += [times] if crash_after != "revoke" else []
            nothing_lost(tally)
            traffic_flows(tally)
    nothing_lost(tally)
    report("roots", tally, ROOTS)
    for refused, ended in took:
        print(f"an old root was refused after {refused:.1f} s, its connection had ended after {ended:.1f} s")
    assert took and max(refused for refused, _ in took) < REFUSED_SECONDS
