"""A mesh's files are edited under mixed traffic through a gateway and two sidecars: no request is lost.

Each round edits the folder as a person does, file by file, so that a mesh in which a name leads nowhere is not taken.
Eight rounds by default; `make lifecycle` runs fifty, every edit at least twice.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from pymesh.local.certificates import Authority
from tests.lifecycle.edits import EDITS
from tests.lifecycle.load import load, origins
from tests.lifecycle.mesh import Mesh, Ports, started
from tests.lifecycle.replica import PATIENCE, ROUNDS, terminate
from tests.lifecycle.test_no_request_lost import nothing_lost, report, traffic_flows
from tests.proxy.running import eventually
from tests.tools.wire.origin import origin

#: The clients that ask all the time; the others are waited for in the end.
BUSY = ["http1", "http2", "grpc-unary"]
TURNS = max(8, ROUNDS)


def test_edits_of_a_mesh(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    folder.mkdir()
    with ExitStack() as stack:
        behind, more = stack.enter_context(origins()), stack.enter_context(origin("more"))
        authority = Authority(tmp_path / "authority.pem")
        mesh = Mesh(folder, Ports.free(), behind, more.port, authority)
        mesh.edit()
        running = stack.enter_context(started(tmp_path, mesh))
        assert eventually(lambda: running.has_arrived(mesh), PATIENCE), running.said()
        with load([mesh.ports.edge]) as tally:
            traffic_flows(tally)
            for turn in range(1, TURNS + 1):
                mesh.turn = turn
                at = turn - 1 if len(EDITS) <= TURNS else (turn - 1) * len(EDITS) // TURNS
                edit = EDITS[at % len(EDITS)]
                edit(mesh)
                mesh.edit()
                assert eventually(lambda: running.has_arrived(mesh), PATIENCE), f"{edit.__name__}\n{running.said()}"
                assert not tally.lost, f"{edit.__name__}: {tally.lost[:10]}\n{running.said()}"
                traffic_flows(tally, BUSY)
            traffic_flows(tally)
        nothing_lost(tally)
        assert more.requests
        report("edits of a mesh's files", tally, TURNS)
        for name in ("edge", "relay", "server"):
            terminate(running.proxies[name])
