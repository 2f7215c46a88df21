"""One attack on one proxy, with two honest clients beside it, and what came of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.attacks.classes import Attack
from tests.attacks.hostile import hostile_endpoint
from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy
from tests.tools.ports import free_ports
from tests.tools.wire import http2
from tests.tools.wire.client import http2_connection
from tests.tools.wire.message import Request
from tests.tools.wire.origin import origin

_ROOT = Path(__file__).resolve().parents[2]
#: More memory than before is a leak, or an attacker's profit.
ROOM_KIB = 64 * 1024
RECOVERY = 60.0


@dataclass
class Outcome:
    """What an attack did to the proxy and to its honest clients."""

    attack: Attack
    told: dict[str, int]
    baseline_kib: int
    peak_kib: int = 0
    counted: int = 0
    good: int = 0
    bad: list[str] = field(default_factory=list)
    #: Seconds until the attackers' connections were gone, and the memory with them; `None`: not within a minute.
    recovery: float | None = None

    @property
    def success(self) -> float:
        """Share of the honest requests that were answered."""
        return self.good / max(1, self.good + len(self.bad))

    def failures(self) -> list[str]:
        """Which promises were broken."""
        broken = []
        if self.peak_kib > self.baseline_kib + ROOM_KIB:
            broken.append(f"memory rose from {self.baseline_kib} to {self.peak_kib} KiB")
        if self.success < 0.999 or not self.good:
            broken.append(f"honest requests: {self.good} good, {len(self.bad)} bad: {self.bad[:3]}")
        if self.recovery is None:
            broken.append("the proxy has not recovered")
        if not self.counted:
            broken.append(f"{self.attack.counter} has not risen")
        if self.attack.due and not self.told.get(self.attack.due):
            broken.append(f"{self.attack.due} was due, told was {self.told}")
        return broken


@contextmanager
def battlefield(run_proxy: Callable[[Json], object]) -> Iterator[Proxy]:
    """A proxy with an honest origin and a hostile endpoint. Its timeouts are short, or nobody would wait for them."""
    with ExitStack() as stack:
        good = stack.enter_context(origin("good"))
        hostile = stack.enter_context(hostile_endpoint())
        port, admin = free_ports(2)
        routes = [
            {"match": {"path": "/small"}, "direct_response": {"status": 200, "body": {"inline_string": "x" * 4000}}},
            to_cluster("hostile", "/hostile/"),
            to_cluster("good", "/attacked/", timeout="0s"),
            # Nothing ends what is asked here but who has asked.
            to_cluster("good", "/patient/", timeout="0s", idle_timeout="0s"),
            # Honest clients get the time that a busy machine takes.
            to_cluster("good", timeout="0s", idle_timeout="60s"),
        ]
        listener = http_listener(
            port,
            [virtual_host("all", routes)],
            stream_idle_timeout="1.5s",
            request_timeout="1s",
            request_headers_timeout="1s",
        )
        # Ten attackers hold a thousand requests; the circuit breaker (1,024) is not what is looked at.
        room = {"thresholds": [{"max_requests": 4096, "max_pending_requests": 4096, "max_connections": 4096}]}
        clusters = [cluster("good", [good.port], circuit_breakers=room), cluster("hostile", [hostile], http2=True)]
        yield stack.enter_context(run_proxy(bootstrap([listener], clusters, admin)))  # type: ignore[arg-type]


def judge(attack: Attack, proxy: Proxy, seconds: float) -> Outcome:
    """Attack for so long, then see how long the proxy takes to be as it was."""
    _honest_http1(proxy.port)
    before = proxy.stats()
    outcome = Outcome(attack, {}, proxy.resident_kib())
    over = threading.Event()
    watchers = [
        threading.Thread(target=watch, args=(proxy, outcome, over)) for watch in (_watch_memory, _ask_http1, _ask_http2)
    ]
    for watcher in watchers:
        watcher.start()
    try:
        argv = [sys.executable, "-m", "tests.attacks.attackers", str(proxy.port), str(seconds), attack.name]
        run = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, timeout=seconds + 60, check=False)
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()
    if run.returncode:
        raise RuntimeError(run.stderr)
    outcome.told = json.loads(run.stdout)
    outcome.counted = proxy.stats().get(attack.counter, 0) - before.get(attack.counter, 0)
    outcome.recovery = _recovery(proxy, outcome)
    return outcome


def _recovery(proxy: Proxy, outcome: Outcome) -> float | None:
    start = time.monotonic()
    while (passed := time.monotonic() - start) < RECOVERY:
        stats = proxy.stats()
        active = ("http.ingress.downstream_cx_active", "cluster.good.upstream_rq_active")
        is_quiet = not any(stats.get(name, 0) for name in active)
        if is_quiet and proxy.resident_kib() < outcome.baseline_kib * 1.1 + ROOM_KIB / 2:
            _honest_http1(proxy.port)
            return passed
        time.sleep(0.05)
    return None


def _watch_memory(proxy: Proxy, outcome: Outcome, over: threading.Event) -> None:
    while not over.wait(0.02):
        outcome.peak_kib = max(outcome.peak_kib, proxy.resident_kib())


def _ask_http1(proxy: Proxy, outcome: Outcome, over: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    while not over.wait(0.02):
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            _note(outcome, answer.status, "HTTP/1.1")
        except (OSError, http.client.HTTPException) as error:
            outcome.bad.append(f"HTTP/1.1: {error!r}")
            connection.close()
    connection.close()


def _ask_http2(proxy: Proxy, outcome: Outcome, over: threading.Event) -> None:
    async def ask() -> None:
        while not over.is_set():
            try:
                async with http2_connection(proxy.port, None) as connection:
                    await _use(connection)
            except Exception as error:
                outcome.bad.append(f"HTTP/2: {error!r}")

    async def _use(connection: http2.Connection) -> None:
        while not over.is_set():
            stream = await connection.send(Request("GET", "/", "localhost"), end=True)
            head, body = await asyncio.wait_for(stream.receive(), 20)
            while await asyncio.wait_for(body.read(), 20):
                pass
            _note(outcome, head.status, "HTTP/2")
            await asyncio.sleep(0.02)
        connection.reset()

    asyncio.run(ask())


def _note(outcome: Outcome, status: int, version: str) -> None:
    if status == 200:
        outcome.good += 1
    else:
        outcome.bad.append(f"{version}: {status}")


def _honest_http1(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/", headers={"connection": "close"})
    connection.getresponse().read()
    connection.close()
