"""Random route tables and policies: ours and Envoy give every request the same answer, and log the same of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.differential.asking import Ask, Asker
from tests.differential.client import ask_all
from tests.differential.judging import differences, settled
from tests.differential.origin import Origin
from tests.differential.tables import CLUSTERS, Tables
from tests.proxy.running import proxy
from tests.tools.ports import free_port

KINDS = ("pymesh", "envoy")
HOSTS = 80
#: What stands for the log of a request whose head was refused before its number was known.
_UNKNOWN = "- - - - - - -"
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


def test_same_decisions(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    wrong: list[str] = []
    asked = 0
    for seed, count in rounds(request):
        wrong += _round(seed, count, tmp_path)
        asked += count
    shown = "\n".join(wrong[:40])
    assert not wrong, f"{len(wrong)} differences in {asked} requests:\n{shown}"


def _round(seed: int, count: int, folder: Path) -> list[str]:
    """What differs with the tables and requests of one seed."""
    tables = Tables(seed, HOSTS)
    asker = Asker(seed, tables)
    asked = [asker.ask() for _ in range(count)]
    seen: dict[str, list[dict[str, Any]]] = {}
    logged: dict[str, dict[str, str]] = {}
    attempts: dict[str, Counter[str]] = {}
    for kind in KINDS:
        attempts[kind] = Counter()
        log = folder / f"{kind}-{seed}.log"
        seen[kind] = asyncio.run(_ask(kind, tables, asked, attempts[kind], log))
        logged[kind] = dict(line.split(" ", 1) for line in _lines(log))
    return list(_compare(seed, asked, seen, logged, attempts))


async def _ask(kind: str, tables: Tables, asked: list[Ask], arrived: Counter[str], log: Path) -> list[dict[str, Any]]:
    """One proxy's answers. It runs until it has logged them all."""
    async with behind(arrived) as origins:
        with proxy(kind, tables.bootstrap(free_port(), free_port(), log, origins, free_port())) as started:
            answers = await ask_all(started.port, asked)
            for _ in range(100):
                if len(_lines(log)) >= len(asked):
                    return answers
                await asyncio.sleep(0.1)
    raise AssertionError(f"{kind} has logged {len(_lines(log))} of {len(asked)} requests")


def _compare(
    seed: int,
    asked: list[Ask],
    seen: dict[str, list[dict[str, Any]]],
    logged: dict[str, dict[str, str]],
    attempts: dict[str, Counter[str]],
) -> Iterator[str]:
    for number, ask in enumerate(asked):
        ours, theirs = (settled(seen[kind][number], logged[kind].get(str(number), _UNKNOWN)) for kind in KINDS)
        for name in CLUSTERS:
            key = f"{name} {number}"
            ours[f"attempts at {name}"], theirs[f"attempts at {name}"] = (attempts[kind][key] for kind in KINDS)
        if ours != theirs:
            yield f"seed {seed}, request {number}: {ask}\n{differences(ours, theirs)}"


def _lines(log: Path) -> list[str]:
    text = log.read_text() if log.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def test_the_same_seed_gives_the_same_tables() -> None:
    one, other = Tables(7, 5), Tables(7, 5)
    assert json.dumps(one.virtual_hosts) == json.dumps(other.virtual_hosts)
    assert str(Asker(7, one).ask()) == str(Asker(7, other).ask())
