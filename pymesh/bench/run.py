"""A run: the plan as the generator takes it, and what it has counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymesh import _bridge
from pymesh.bench.errors import BenchError
from pymesh.bench.histogram import Histogram


@dataclass(frozen=True)
class Tls:
    """How the target is spoken to over TLS; everything is PEM."""

    #: Sent as SNI; without it the address is what a certificate has to be valid for.
    server_name: str | None
    #: Without roots any certificate will do.
    roots: bytes | None
    #: A chain and its key.
    identity: tuple[bytes, bytes] | None


@dataclass(frozen=True)
class Request:
    """One request, sent again and again; names of headers are in lower case."""

    method: str
    authority: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(frozen=True)
class Plan:
    """What is sent where, how fast and for how long (`rust/load/src/plan.rs`); times in seconds."""

    #: `IP:PORT`.
    address: str
    tls: Tls | None
    http2: bool
    #: HTTP/1.1: otherwise a connection for each request.
    keep_alive: bool
    requests: list[Request]
    workers: int
    connections: int
    streams: int
    #: Requests per second of an open loop; a closed loop has none.
    rate: float | None
    #: Random arrivals of an open loop; evenly spaced ones have no seed.
    poisson_seed: int | None
    duration: float | None
    #: In place of a duration.
    count: int | None
    warm_up: float
    timeout: float


@dataclass(frozen=True)
class Bin:
    """A stretch of the run."""

    answered: int
    failed: int
    #: Of requests that should have started in it.
    latency: Histogram


@dataclass(frozen=True)
class Counts:
    """What the generator has counted since the end of the warm-up (`rust/load/src/tally.rs`)."""

    interrupted: bool
    #: Seconds in which requests began.
    window: float
    begun: int
    answered_in_time: int
    unfinished: int
    resent: int
    body_octets: int
    waiting_most: int
    busy: float
    statuses: dict[int, int]
    failures: dict[str, tuple[int, list[str]]]
    connections_opened: int
    connections_failed: int
    connections_closed_by_target: int
    latency: Histogram
    service: Histogram
    lag: Histogram
    connect: Histogram
    bin_width: float
    bins: list[Bin]


def carry_out(plan: Plan, watch: Callable[[int, int], bool]) -> Counts:
    """Runs a plan; `watch(answered, failed)` is called ten times a second and says whether to go on."""
    try:
        counts = _bridge.bench(plan, watch)
    except ConnectionError as error:
        raise BenchError(f"cannot connect to {plan.address}: {error}") from None
    except (ValueError, _bridge.ProxyError) as error:
        raise BenchError(str(error)) from None
    return _counts(counts)


def _counts(given: dict[str, Any]) -> Counts:
    for name in ("latency", "service", "lag", "connect"):
        given[name] = Histogram(given[name])
    given["bins"] = [Bin(answered, failed, Histogram(latency)) for answered, failed, latency in given["bins"]]
    return Counts(**given)
