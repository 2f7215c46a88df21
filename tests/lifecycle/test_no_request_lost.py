"""Drains, binary upgrades and changes of configuration under mixed traffic: no request is lost.

Five rounds each by default; `make lifecycle` runs fifty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from pymesh.control.xds import pb
from tests.lifecycle.load import KINDS, Origins, load, origins
from tests.lifecycle.replica import PATIENCE, ROUNDS, Succession, clusters, config, ends, listener, replica, terminate
from tests.lifecycle.tally import Tally
from tests.proxy import bootstrap
from tests.proxy.bootstrap import to_cluster
from tests.proxy.running import eventually
from tests.tools import ads
from tests.tools.ports import free_ports
from tests.tools.wire.origin import origin


@pytest.fixture(scope="module", name="behind")
def _behind() -> Iterator[Origins]:
    with origins() as made:
        yield made


def traffic_flows(tally: Tally, kinds: Sequence[str] = KINDS) -> None:
    """Every one of these kinds of clients gets answers from now on."""
    before = Counter(tally.completed)

    def flows() -> bool:
        return bool(tally.lost) or all(tally.completed[kind] > before[kind] for kind in kinds)

    assert eventually(flows, PATIENCE), f"before {before}, now {tally.completed}"
    nothing_lost(tally)


def nothing_lost(tally: Tally) -> None:
    assert not tally.lost, tally.lost[:10]


def report(what: str, tally: Tally, rounds: int = ROUNDS) -> None:
    print(
        f"\n{rounds} {what}: {tally.completed.total()} completed {dict(tally.completed)}, "
        f"{tally.told.total()} told to ask elsewhere, {len(tally.lost)} lost"
    )


def test_drains(behind: Origins, tmp_path: Path) -> None:
    """Two replicas in turn; clients go to the other one."""
    ports, admins = free_ports(2), free_ports(2)
    made = [config(behind, port, admin) for port, admin in zip(ports, admins, strict=True)]
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(replica(tmp_path, one, ready=[port])) for one, port in zip(made, ports, strict=True)
        ]
        with load(ports) as tally:
            traffic_flows(tally)
            for turn in range(ROUNDS):
                at = turn % 2
                terminate(replicas[at])
                nothing_lost(tally)
                replicas[at] = stack.enter_context(replica(tmp_path, made[at], ready=[ports[at]]))
                traffic_flows(tally)
        nothing_lost(tally)
        report("drains", tally)


def test_binary_upgrades(behind: Origins, tmp_path: Path) -> None:
    """Each process has another number of workers than the one before."""
    port, admin = free_ports(2)
    made = config(behind, port, admin)
    family = Succession(tmp_path)
    with ExitStack() as stack:
        serving = stack.enter_context(family.start(made, "--concurrency", "2"))
        assert family.serves(serving)
        with load([port]) as tally:
            traffic_flows(tally)
            for turn in range(ROUNDS):
                workers = str((3, 1, 2)[turn % 3])
                successor = stack.enter_context(family.start(made, "--concurrency", workers))
                assert family.serves(successor), successor.tail()
                ends(serving)
                serving = successor
                nothing_lost(tally)
                traffic_flows(tally)
        nothing_lost(tally)
        report("binary upgrades", tally)
        terminate(serving)
    assert not family.socket.exists() and not family.pid_file.exists()


def test_changes_of_configuration(behind: Origins, tmp_path: Path) -> None:
    """In each round endpoints, routes, a cluster, the listener itself and another one change, come or go."""
    port, other, admin = free_ports(3)
    server = ads.Server("DELTA_GRPC")
    server.start()
    made = bootstrap.dynamic("DELTA_GRPC", bootstrap.cluster("ads", [server.port], http2=True), admin)
    with ExitStack() as stack:
        stack.callback(server.stop)
        more = stack.enter_context(origin("more"))
        change(server, 0, port, other, behind, more.port)
        proxy = stack.enter_context(replica(tmp_path, made, "--concurrency", "2", ready=[port]))
        with load([port]) as tally:
            traffic_flows(tally)
            for turn in range(1, ROUNDS + 1):
                change(server, turn, port, other, behind, more.port)
                server.push(pb.CLUSTER, pb.LISTENER)
                assert eventually(server.settled, PATIENCE), proxy.tail()
                assert not server.refusals()
                traffic_flows(tally)
        nothing_lost(tally)
        assert more.requests
        report("changes of configuration", tally)
        terminate(proxy)
    assert not server.violations


def change(server: ads.Server, turn: int, port: int, other: int, behind: Origins, more: int) -> None:
    """Puts the turn's resources in the place of the last one's."""
    extra = f"turn-{turn}"
    endpoints = [[behind.http], [behind.http, more], [more]][turn % 3]
    listeners = [listener(port, routes=[to_cluster(extra, f"/{extra}")])]
    if turn % 2:
        listeners.append(listener(other, "other"))
    server.world.clear()
    server.put(
        *[
            pb.from_json("envoy.config.cluster.v3.Cluster", one)
            for one in [*clusters(behind, endpoints), bootstrap.cluster(extra, [more])]
        ],
        *[pb.from_json("envoy.config.listener.v3.Listener", one) for one in listeners],
    )
