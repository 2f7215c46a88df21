"""Ours and Envoy on the same bootstrap open their circuit breakers at the same request, and say the same of it.

Every test plays a script on both: requests that the origin holds fill a circuit breaker, then others are refused. What
is compared is each answer with its line of the access log, and every gauge and counter that tells of it.
"""

from __future__ import annotations

import http.client
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.test_same_retries import with_options
from tests.proxy.bootstrap import (
    Json,
    access_log,
    bootstrap,
    cluster,
    http_listener,
    tcp_listener,
    to_cluster,
    virtual_host,
)
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.ports import free_port
from tests.tools.wire.origin import Origin, origin

KINDS = ("envoy", "pymesh")
LINE = "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\n"
TOLD = (
    "circuit_breakers.",
    "upstream_cx_active",
    "upstream_cx_overflow",
    "upstream_cx_max_requests",
    "upstream_rq_active",
    "upstream_rq_pending_active",
    "upstream_rq_pending_overflow",
    "upstream_rq_retry",
    "upstream_rq_total",
)
HELD = "x-want-delay: 3600"
AGAIN = ("x-want-status: 503|200", "x-want-delay: 0|3600")
Script = Callable[["Stage"], Any]


class Stage:
    """One proxy in front of an origin, and the clients that are waiting for it."""

    def __init__(self, proxy: Proxy, behind: Origin, log: Path) -> None:
        self.proxy, self.behind, self.log = proxy, behind, log
        self._clients = ExitStack()

    def client(self, path: str, *headers: str, port: int | None = None) -> socket.socket:
        """A request on a connection of its own."""
        made = self._clients.enter_context(socket.create_connection(("127.0.0.1", port or self.proxy.port), 30))
        # Who leaves does not wait for an answer.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        head = [f"GET {path} HTTP/1.1", "host: a.test", *headers]
        made.sendall("\r\n".join([*head, "", ""]).encode())
        return made

    def hold(self, path: str, *headers: str, reached: int) -> None:
        """A request that stays with the origin, which has been reached so often then."""
        self.client(path, *(headers or (HELD,)))
        self.until(lambda: len(self.behind.requests) >= reached)

    def answered(self, path: str, *headers: str) -> tuple[int, str | None, str]:
        """The status, `x-envoy-overloaded` and the last line of the log, for a request that is answered."""
        before = len(self.lines())
        with self.client(path, *headers) as asked:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = asked.recv(65536)
                assert piece, head
                head += piece
            lines, _, body = head.partition(b"\r\n\r\n")
            first, *fields = lines.decode().split("\r\n")
            told = dict(field.split(": ", 1) for field in fields)
            while len(body) < int(told.get("content-length", "0")):
                body += asked.recv(65536)
        self.until(lambda: len(self.lines()) > before)
        return int(first.split()[1]), told.get("x-envoy-overloaded"), self.lines()[-1]

    def lines(self) -> list[str]:
        """The access log so far."""
        return lines_of(self.log)

    def stats(self) -> dict[str, int]:
        """Everything that tells of circuit breakers."""
        prefix = "cluster.a."
        own = {
            stat.removeprefix(prefix): value for stat, value in self.proxy.stats().items() if stat.startswith(prefix)
        }
        # Pools beyond number are a matter of clusters whose endpoints clients choose.
        return {stat: value for stat, value in own.items() if stat.startswith(TOLD) and "cx_pool" not in stat}

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what has to come."""
        assert eventually(condition), self.stats()

    def close(self) -> None:
        """All clients leave."""
        self._clients.close()


@contextmanager
def stage(
    kind: str, breakers: Json, folder: Path, *, concurrency: int = 1, http2: bool = False, relays: bool = False
) -> Iterator[Stage]:
    """A proxy whose cluster has these circuit breakers."""
    with origin("a", http2=http2) as behind:
        log = folder / kind
        made = cluster("a", [behind.port], http2=http2, circuit_breakers=breakers)
        back_off = {"base_interval": "0.001s", "max_interval": "0.001s"}
        retry = {"retry_on": "5xx", "num_retries": 3, "retry_back_off": back_off}
        routes = [
            to_cluster("a", "/urgent", priority="HIGH", timeout="0s"),
            to_cluster("a", "/retried", timeout="0s", retry_policy=retry),
            to_cluster("a", timeout="0s"),
        ]
        host = virtual_host("all", routes, include_request_attempt_count=True)
        relay = {"access_log": [access_log(log, "%RESPONSE_FLAGS% %UPSTREAM_CLUSTER%\n")]}
        listeners = [http_listener(free_port(), [host], access_log=[access_log(log, LINE)])]
        if relays:
            listeners.append(tcp_listener(free_port(), "a", **relay))
        with proxy(kind, bootstrap(listeners, [made], free_port()), concurrency) as started:
            played = Stage(started, behind, log)
            try:
                yield played
            finally:
                played.close()


def played(script: Script, breakers: Json, folder: Path, **options: Any) -> Any:
    """What came of a script, which is the same on both."""
    seen = {}
    for kind in KINDS:
        with stage(kind, breakers, folder, **options) as on:
            seen[kind] = script(on)
    assert seen["pymesh"] == seen["envoy"]
    return seen["pymesh"]


@pytest.mark.parametrize("http2", [False, True])
def test_requests(http2: bool, tmp_path: Path) -> None:
    def script(on: Stage) -> Any:
        for n in (1, 2):
            on.hold("/", reached=n)
        seen = [on.answered("/"), on.stats()]
        # What is urgent has thresholds, and connections, of its own.
        on.hold("/urgent", reached=3)
        seen += [on.answered("/urgent"), on.stats()]
        on.close()
        on.until(lambda: on.stats()["upstream_rq_active"] == 0)
        # A client that has its content-length may leave before the stream has ended: its log is a matter of luck.
        return [*seen, on.stats()["circuit_breakers.default.rq_open"], on.answered("/")[0]]

    default = {"max_requests": 2, "track_remaining": True}
    breakers = {"thresholds": [default, {"priority": "HIGH", "max_requests": 1}]}
    seen = played(script, breakers, tmp_path, http2=http2)
    assert [seen[0][0], seen[2][0], seen[-1]] == [503, 503, 200]


def test_connections_and_requests_that_wait_for_one(tmp_path: Path) -> None:
    def script(on: Stage) -> Any:
        on.hold("/", reached=1)
        on.client("/", HELD)
        on.until(lambda: on.stats()["upstream_rq_pending_active"] == 1)
        seen = [on.answered("/"), on.stats()]
        on.hold("/urgent", reached=2)
        return [*seen, on.stats()]

    default = {"max_connections": 1, "max_pending_requests": 1, "track_remaining": True}
    assert played(script, {"thresholds": [default]}, tmp_path)[0][0] == 503


def test_connections_of_a_host(tmp_path: Path) -> None:
    def script(on: Stage) -> Any:
        on.hold("/", reached=1)
        on.client("/", HELD)
        on.until(lambda: on.stats()["upstream_rq_pending_active"] == 1)
        return [on.answered("/"), on.stats()]

    breakers = {"thresholds": [{"max_pending_requests": 1}], "per_host_thresholds": [{"max_connections": 1}]}
    assert played(script, breakers, tmp_path)[0][0] == 503


def test_retries(tmp_path: Path) -> None:
    def script(on: Stage) -> Any:
        on.hold("/retried", *AGAIN, reached=2)
        return [on.stats(), on.answered("/retried", "x-want-status: 503"), on.stats()]

    seen = played(script, {"thresholds": [{"max_retries": 1, "track_remaining": True}]}, tmp_path)
    assert seen[1] == (503, None, "503 via_upstream UO 1")


def test_a_budget_of_retries(tmp_path: Path) -> None:
    def script(on: Stage) -> Any:
        for n in range(1, 5):
            on.hold("/", reached=n)
        # Of five requests one may be retried, of six as well.
        on.hold("/retried", *AGAIN, reached=6)
        seen = [on.stats(), on.answered("/retried", "x-want-status: 503"), on.stats()]
        for n in range(8, 12):
            on.hold("/", reached=n)
        on.hold("/retried", *AGAIN, reached=13)
        return [*seen, on.stats(), on.answered("/retried", "x-want-reset: before"), on.stats()]

    budget = {"budget_percent": {"value": 20}, "min_retry_concurrency": 0}
    limits = {"max_retries": 0, "retry_budget": budget, "track_remaining": True}
    seen = played(script, {"thresholds": [limits]}, tmp_path)
    assert [seen[1][2], seen[2]["upstream_rq_retry_overflow"]] == ["503 via_upstream UO 1", 1]


def test_a_relay(tmp_path: Path) -> None:
    def script(on: Stage) -> Any:
        relay = on.proxy.ports[1]
        on.until(lambda: on.stats()["upstream_cx_active"] == 0)
        on.client("/", HELD, port=relay)
        on.until(lambda: len(on.behind.requests) == 1)
        with socket.create_connection(("127.0.0.1", relay), 30) as refused:
            assert refused.recv(1) == b""
        on.until(lambda: "UO a" in on.lines())
        # Another line is of who has looked whether anybody listens.
        return [on.lines().count("UO a"), {name: value for name, value in on.stats().items() if "cx" in name}]

    assert played(script, {"thresholds": [{"max_connections": 1}]}, tmp_path, relays=True)[0] == 1


def test_workers_share_them(tmp_path: Path) -> None:
    def script(on: Stage) -> Any:
        for n in range(1, 9):
            on.hold("/", reached=n)
        # Whichever worker they come to.
        return [on.answered("/")[:2] for _ in range(16)] + [on.stats()["circuit_breakers.default.rq_open"]]

    # A worker without a connection would first wait for one, and be refused then: the same, but for the moment.
    seen = played(script, {"thresholds": [{"max_requests": 8}]}, tmp_path, concurrency=2)
    assert seen == [(503, "true")] * 16 + [1]


def test_connections_that_are_used_up_idle_or_old(tmp_path: Path) -> None:
    common = {
        "used": {"max_requests_per_connection": 2},
        "idle": {"idle_timeout": "0.2s"},
        "old": {"max_connection_duration": "0.5s"},
    }

    def script(started: Proxy) -> dict[str, int]:
        def count(name: str, stat: str) -> int:
            return started.stats()[f"cluster.{name}.{stat}"]

        for name in common:
            for n in range(1, 4):
                # The whole answer is read: who leaves before takes the connection behind along.
                asked = http.client.HTTPConnection("127.0.0.1", started.port, timeout=30)
                asked.request("GET", f"/{name}", headers={"host": "a.test"})
                answer = asked.getresponse()
                assert (answer.status, len(answer.read()) > 0) == (200, True)
                asked.close()
                assert eventually(lambda: count(name, "upstream_rq_total") >= n)  # noqa: B023
                assert eventually(lambda: count(name, "upstream_rq_active") == 0)  # noqa: B023
        assert eventually(lambda: count("idle", "upstream_cx_idle_timeout") > 0)
        assert eventually(lambda: count("old", "upstream_cx_max_duration_reached") > 0)
        assert eventually(lambda: count("old", "upstream_cx_active") == 0)
        names = ("max_requests", "idle_timeout", "max_duration_reached")
        told = {f"{name} {stat}": count(name, f"upstream_cx_{stat}") for name in common for stat in names}
        # How many connections came and went of these is a matter of time.
        return {stat: min(value, 1) for stat, value in told.items()} | {"used": count("used", "upstream_cx_total")}

    seen = {}
    for kind in KINDS:
        with origin("a") as behind:
            clusters = [
                with_options(cluster(name, [behind.port]), {"common_http_protocol_options": options})
                for name, options in common.items()
            ]
            host = virtual_host("all", [to_cluster(name, f"/{name}") for name in common])
            with proxy(kind, bootstrap([http_listener(free_port(), [host])], clusters, free_port())) as started:
                seen[kind] = script(started)
    assert seen["pymesh"] == seen["envoy"]
    assert seen["pymesh"]["used"] == 2
