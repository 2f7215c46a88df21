"""What runs around the two proxies: endpoints, rounds of a seed each, and the access log."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.differential.origin import Origin
from tests.differential.tables import CLUSTERS

KINDS = ("pymesh", "envoy")
#: Requests for one table.
ROUND = 2500


@asynccontextmanager
async def behind(arrived: Counter[str]) -> AsyncIterator[dict[str, list[int]]]:
    """An endpoint for each cluster, and where they listen; `arrived` counts attempts by endpoint and case."""
    loop = asyncio.get_running_loop()
    open_now: set[Origin] = set()
    servers = {}
    for name in CLUSTERS:
        make = partial(Origin, name, arrived, open_now)
        servers[name] = await loop.create_server(make, "127.0.0.1", 0)
    try:
        yield {name: [server.sockets[0].getsockname()[1]] for name, server in servers.items()}
    finally:
        for server in servers.values():
            server.close()
        for connection in list(open_now):
            connection.close()
        await asyncio.sleep(0)


def rounds(request: pytest.FixtureRequest) -> list[tuple[int, int]]:
    seed, count = request.config.getoption("--seed"), request.config.getoption("--requests")
    return [(seed + number, min(ROUND, count - number * ROUND)) for number in range(-(-count // ROUND))]


def lines(log: Path) -> list[str]:
    text = log.read_text() if log.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()
