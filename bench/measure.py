"""One proxy under one load: what it used for each request."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import cpu
from bench.loads import LARGE, Shape, idle_connections, load
from bench.proxies import Certificates, Competitor, Setup, Started
from tests.tools.certificates import Authority
from tests.tools.nginx import nginx
from tests.tools.ports import free_ports

ON_PROXY_CORE = ["taskset", "-c", "0"]
ON_LOAD_CORE = ["taskset", "-c", "1"]


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
class Bench:
    """What every run uses: ports of an origin that answers at once, and certificates."""

    http1: int
    http2: int
    certificates: Certificates


@contextmanager
def bench() -> Iterator[Bench]:
    """nginx on the load's core, for both versions, and an authority."""
    http1, http2 = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / LARGE.lstrip("/")).write_bytes(bytes(1 << 20))
        answer = f'location / {{ return 200 "hello world\\n"; }} location = {LARGE} {{ root {folder}; sendfile on; }}'
        http = f"""
            server {{ listen 127.0.0.1:{http1}; {answer} }}
            server {{ listen 127.0.0.1:{http2} http2; http2_max_concurrent_streams 1024;
                     http2_max_requests 1000000000; {answer} }}
        """
        authority = Authority(folder)
        pair = authority.issue("bench", dns=["bench.test"])
        with nginx(http, [http1, http2], prefix=ON_LOAD_CORE):
            yield Bench(http1, http2, Certificates(authority.root, pair))


@contextmanager
def started(competitor: Competitor, shape: Shape, where: Bench) -> Iterator[tuple[list[int], int]]:
    """The proxies that a shape needs: their process groups, and the port for the client."""
    with ExitStack() as stack:
        groups: list[int] = []

        def start(setup: Setup) -> Started:
            one: Started = stack.enter_context(competitor.start(setup))
            groups.append(one.pid)
            return one

        origin = where.http2 if shape.http2_out else where.http1
        setup = Setup(origin, shape.http2_out, ON_PROXY_CORE, where.certificates)
        if shape.mesh:
            inner = start(setup.with_(tls_in="mutual"))
            http2 = competitor.http2_out
            last = start(setup.with_(origin=inner.http2 if http2 else inner.http1, http2_out=http2, tls_out=True))
        else:
            last = start(setup.with_(tls_in="server" if shape.tls else None))
        yield groups, last.http2 if shape.http2_in else last.http1


def under_load(
    competitor: Competitor, shape: Shape, where: Bench, seconds: int, share: float | None, rate: float | None
) -> Sample:
    """Start a proxy, warm it up, load it; `share` of its core is the most that it may use."""
    with ExitStack() as stack:
        groups, port = stack.enter_context(started(competitor, shape, where))
        if share is not None:
            for group in groups:
                stack.enter_context(cpu.limited(group, share))
        load(shape, port, 1, ON_LOAD_CORE)
        before = [cpu.used(group) for group in groups]
        answered = load(shape, port, seconds, ON_LOAD_CORE, rate)
        used = [cpu.used(group) - earlier for group, earlier in zip(groups, before, strict=True)]
    each = 1 / answered.requests
    user, system = sum(one.user for one in used), sum(one.system for one in used)
    return Sample((user + system) * each, user * each, answered.per_second, answered.p50, answered.p99)


def memory(competitor: Competitor, where: Bench) -> Memory:
    """Resident memory of a proxy that has done nothing yet, and what idle connections add to it."""
    setup = Setup(where.http1, False, ON_PROXY_CORE, where.certificates)
    with competitor.start(setup) as one:
        idle = cpu.resident_kib(one.pid)
        with idle_connections(one.http1, 100):
            before = cpu.resident_kib(one.pid)
            with idle_connections(one.http1, competitor.idle):
                grown = cpu.resident_kib(one.pid) - before
    return Memory(idle, grown / competitor.idle)
