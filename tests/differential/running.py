"""What runs around the two proxies: endpoints, rounds of a seed each, and the access log."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.differential.origin import Origin
from tests.differential.tables import CLUSTERS, HASHED, HASHING
from tests.proxy.running import lines_of
from tests.tools.ports import free_ports

KINDS = ("pymesh", "envoy")
#: Requests for one table.
ROUND = 2500


Ports = Mapping[str, Sequence[int]]


def endpoints() -> Ports:
    """Where the endpoints of each cluster listen: the same for both proxies, since addresses are hashed."""
    return {name: free_ports(HASHED if name in HASHING else 1) for name in (*CLUSTERS, *HASHING)}


@asynccontextmanager
async def behind(ports: Ports, arrived: Counter[str]) -> AsyncIterator[None]:
    """The endpoints; `arrived` counts attempts by endpoint and case."""
    loop = asyncio.get_running_loop()
    open_now: set[Origin] = set()
    servers = []
    for name, listening in ports.items():
        for number, port in enumerate(listening):
            one = f"{name}-{number}" if len(listening) > 1 else name
            servers.append(await loop.create_server(partial(Origin, one, arrived, open_now), "127.0.0.1", port))
    try:
        yield
    finally:
        for server in servers:
            server.close()
        for connection in list(open_now):
            connection.close()
        await asyncio.sleep(0)


def rounds(request: pytest.FixtureRequest) -> list[tuple[int, int]]:
    seed, count = request.config.getoption("--seed"), request.config.getoption("--requests")
    return [(seed + number, min(ROUND, count - number * ROUND)) for number in range(-(-count // ROUND))]


async def all_logged(log: Path, count: int) -> list[str]:
    """The access log, once so many requests have each their line."""
    for _ in range(100):
        if len(lines_of(log)) >= count:
            return lines_of(log)
        await asyncio.sleep(0.1)
    raise AssertionError(f"{log} has lines of {len(lines_of(log))} of {count} requests")
