"""One proxy under one load: what it used for each request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench import cpu
from bench.loads import Shape, idle_connections, load
from bench.proxies import Competitor, Setup, Started
from tests.tools.nginx import nginx
from tests.tools.ports import free_ports

ON_PROXY_CORE = ["taskset", "-c", "0"]
ON_LOAD_CORE = ["taskset", "-c", "1"]
_IDLE = 2_000


@dataclass(frozen=True)
class Sample:
    """One run. Times in microseconds of CPU per request; latencies in milliseconds."""

    cpu: float
    user: float
    per_second: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Memory:
    """KiB: resident before any request, and what each idle keep-alive connection adds."""

    idle: int
    per_connection: float


@dataclass(frozen=True)
class Origins:
    """Ports of an origin that answers at once."""

    http1: int
    http2: int


@contextmanager
def origins() -> Iterator[Origins]:
    """nginx on the load's core, for both versions."""
    http1, http2 = free_ports(2)
    answer = 'location / { return 200 "hello world\\n"; }'
    http = f"""
        server {{ listen 127.0.0.1:{http1}; {answer} }}
        server {{ listen 127.0.0.1:{http2} http2; http2_max_concurrent_streams 1024;
                 http2_max_requests 1000000000; {answer} }}
    """
    with nginx(http, [http1, http2], prefix=ON_LOAD_CORE):
        yield Origins(http1, http2)


def under_load(competitor: Competitor, shape: Shape, where: Origins, seconds: int, share: float | None) -> Sample:
    """Start a proxy, warm it up, load it; `share` of its core is the most that it may use."""
    setup = Setup(where.http2 if shape.http2_out else where.http1, shape.http2_out, ON_PROXY_CORE)
    with ExitStack() as stack:
        started: Started = stack.enter_context(competitor.start(setup))
        if share is not None:
            stack.enter_context(cpu.limited(started.pid, share))
        port = started.http2 if shape.http2_in else started.http1
        load(shape, port, 1, ON_LOAD_CORE)
        before = cpu.used(started.pid)
        answered = load(shape, port, seconds, ON_LOAD_CORE)
        used = cpu.used(started.pid) - before
    each = 1 / answered.requests
    return Sample((used.user + used.system) * each, used.user * each, answered.per_second, answered.p50, answered.p99)


def memory(competitor: Competitor, where: Origins) -> Memory:
    """Resident memory of a proxy that has done nothing yet, and what idle connections add to it."""
    setup = Setup(where.http1, False, ON_PROXY_CORE)
    with competitor.start(setup) as started:
        idle = cpu.resident_kib(started.pid)
        with idle_connections(started.http1, 100):
            before = cpu.resident_kib(started.pid)
            with idle_connections(started.http1, _IDLE):
                grown = cpu.resident_kib(started.pid) - before
    return Memory(idle, grown / _IDLE)
