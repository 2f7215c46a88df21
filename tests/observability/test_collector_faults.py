"""Whoever takes telemetry is down, slow, frozen or has no room: requests do not notice, and what is lost is counted.

The collector is a real one. A log's disk without room is `/dev/full`; one that hangs is a pipe that nobody reads.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.observability.collector import Collector, collecting, not_started
from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.peers import peer
from tests.tools.ports import free_port
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import origin

#: `make observability` runs all of it; otherwise each fault once, with fewer requests.
WHOLE = bool(os.environ.get("PYMESH_OBSERVABILITY_WHOLE"))
REQUESTS = 30_000 if WHOLE else 2000
LONG = 8000
#: The request's and that of its attempt.
SPANS = 2
#: How much more memory may be held than before (KiB): what may wait is far less.
MOST_KIB = 48 * 1024


@contextmanager
def serving(
    *, tracing: Json | None = None, clusters: tuple[Json, ...] = (), logs: tuple[Json, ...] = ()
) -> Iterator[Proxy]:
    """Our proxy before an origin."""
    with ExitStack() as stack:
        behind = stack.enter_context(origin("a"))
        manager: Json = {"access_log": list(logs)} | ({"tracing": tracing} if tracing else {})
        listener = http_listener(free_port(), [virtual_host("all", [to_cluster("a")])], **manager)
        listener["traffic_direction"] = "OUTBOUND"
        made = bootstrap([listener], [cluster("a", [behind.port]), *clusters], free_port())
        yield stack.enter_context(proxy("pymesh", made))


def load(started: Proxy, requests: int = REQUESTS) -> None:
    """All of them are answered."""
    argv = [peer("h2load"), "--h1", "-n", str(requests), "-c", "8", f"http://127.0.0.1:{started.port}/"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True)
    assert re.search(rf"status codes: {requests} 2xx", done.stdout), done.stdout
    assert re.search(rf"requests: {requests} total, .* {requests} succeeded, 0 failed", done.stdout), done.stdout


@contextmanager
def faulty(fault: str, collector: Collector) -> Iterator[None]:
    """A collector with that fault."""
    with ExitStack() as stack:
        if fault == "slow":
            stack.enter_context(collecting(collector, delay="60s"))
        elif fault == "full":
            stack.enter_context(collecting(collector, path="/dev/full"))
        elif fault == "frozen":
            started = stack.enter_context(collecting(collector))
            assert started.process is not None
            started.process.signal(signal.SIGSTOP)
            stack.callback(started.process.signal, signal.SIGCONT)
        yield


FAULTS = [("down", "grpc"), ("slow", "http"), ("frozen", "grpc"), ("full", "http")]
if WHOLE:
    FAULTS += [("down", "http"), ("slow", "grpc"), ("frozen", "http"), ("full", "grpc")]


@pytest.mark.parametrize(("fault", "protocol"), FAULTS)
def test_a_collector_in_trouble_costs_spans_alone(fault: str, protocol: str, tmp_path: Path) -> None:
    collector = not_started(tmp_path)
    tracing = {"provider": collector.provider(protocol, "shop"), "spawn_upstream_span": True}
    to_collector = cluster("collector", [collector.port(protocol)], http2=protocol == "grpc")
    with serving(tracing=tracing, clusters=(to_collector,)) as started:
        load(started, 200)
        before = started.resident_kib()
        with faulty(fault, collector):
            load(started)
            assert started.resident_kib() < before + MOST_KIB

            def told() -> tuple[int, int]:
                stats = started.stats()
                names = ("spans_sent", "spans_dropped")
                sent, dropped = (stats.get(f"tracing.opentelemetry.{name}", 0) for name in names)
                return sent, dropped

            # Each is one or the other, in the end.
            everything = (REQUESTS + 200) * SPANS
            assert eventually(lambda: sum(told()) == everything, 30), told()
            sent, dropped = told()
            assert (sent, dropped) == (0, everything)
        with collecting(collector):
            # Ours is told of those that come after. What failed before may cost a connection or two.
            def is_back() -> bool:
                fetch(started.port, Request("GET", "/back", "a.test"), b"")
                return any(span.attributes.get("http.url", "").endswith("/back") for span in collector.spans())

            assert eventually(is_back, 30), (collector.spans(), started.stats())
        assert started.process.alive()


@pytest.mark.parametrize("fault", ["down", "slow", "frozen", "full"] if WHOLE else ["frozen"])
def test_a_collector_in_trouble_costs_records_alone(fault: str, tmp_path: Path) -> None:
    collector = not_started(tmp_path)
    log = collector.log(body={"string_value": "%REQ(:PATH)% " + "x" * 1000})
    to_collector = cluster("collector", [collector.grpc], http2=True)
    with serving(logs=(log,), clusters=(to_collector,)) as started:
        load(started, 200)
        before = started.resident_kib()
        with faulty(fault, collector):
            load(started)
            assert started.resident_kib() < before + MOST_KIB

            def told() -> tuple[int, int]:
                stats = started.stats()
                names = ("logs_written", "logs_dropped")
                written, dropped = (stats.get(f"access_logs.open_telemetry_access_log.{name}", 0) for name in names)
                return written, dropped

            assert eventually(lambda: told() == (0, REQUESTS + 200), 30), told()
        with collecting(collector):

            def is_back() -> bool:
                fetch(started.port, Request("GET", "/back", "a.test"), b"")
                return any(record.body.startswith("/back") for record in collector.records())

            assert eventually(is_back, 30), started.stats()
        assert started.process.alive()


def test_a_disk_without_room_costs_lines_alone(tmp_path: Path) -> None:
    good = tmp_path / "good.log"
    logs = (access_log(Path("/dev/full"), "%REQ(:PATH)%\n"), access_log(good, "%REQ(:PATH)%\n"))
    with serving(logs=logs) as started:
        load(started)
        assert eventually(lambda: len(lines_of(good)) == REQUESTS, 20)
        assert eventually(lambda: started.stats()["access_logs.file.logs_dropped"] == REQUESTS, 20), started.stats()
        stats = started.stats()
        assert stats["filesystem.write_failed"] > 0
        assert stats["filesystem.write_completed"] > 0
        # Told once, not for every line.
        assert started.process.output().count("access log /dev/full: No space left on device") == 1


def test_a_disk_that_hangs_costs_lines_alone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Long lines: more than may wait.
    line = "%REQ(:PATH)% " + "x" * LONG + "\n"
    with serving(logs=(access_log(pipe, line),)) as started:
        load(started, 200)
        before = started.resident_kib()
        load(started)
        assert started.resident_kib() < before + MOST_KIB
        assert started.stats()["access_logs.file.logs_dropped"] > 0
        with pipe.open("rb") as reader:
            os.set_blocking(reader.fileno(), False)
            heard = bytearray()

            def is_all() -> bool:
                while piece := reader.read(1 << 20):
                    heard.extend(piece)
                return heard.count(b"\n") + started.stats()["access_logs.file.logs_dropped"] == REQUESTS + 200

            assert eventually(is_all, 30), (heard.count(b"\n"), started.stats())
        assert set(bytes(heard).splitlines()) == {b"/ " + b"x" * LONG}


def test_the_end_does_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with serving(logs=(access_log(pipe, "%REQ(:PATH)%\n"),)) as started:
        assert fetch(started.port, Request("GET", "/", "a.test"), b"").status == 200
        started.process.signal(signal.SIGTERM)
        assert started.process.wait(60) == 0
