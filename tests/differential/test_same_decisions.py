"""Random route tables and policies: ours and Envoy give every request the same answer, and log the same of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.differential.asking import Ask, Asker
from tests.differential.client import ask_all
from tests.differential.judging import differences, settled
from tests.differential.running import KINDS, Ports, all_logged, behind, endpoints, rounds
from tests.differential.tables import Tables
from tests.proxy.bootstrap import Json
from tests.proxy.running import lines_of, proxy
from tests.tools.ports import free_port

HOSTS = 80
#: What stands for the log of a request whose head was refused before its number was known.
_UNKNOWN = "- - - - - - -"


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
    seen: dict[str, dict[int, dict[str, Any]]] = {}
    logged: dict[str, dict[str, str]] = {}
    attempts: dict[str, Counter[str]] = {}
    ports, nobody = endpoints(), free_port()
    for kind in KINDS:
        attempts[kind] = Counter()
        log = folder / f"{kind}-{seed}.log"
        config = tables.bootstrap(free_port(), free_port(), log, ports, nobody)
        seen[kind] = asyncio.run(_ask(kind, config, asked, ports, attempts[kind], log))
        logged[kind] = dict(line.split(" ", 1) for line in lines_of(log))
    return list(_compare(seed, asked, seen, logged, attempts))


async def _ask(
    kind: str, config: Json, asked: list[Ask], ports: Ports, arrived: Counter[str], log: Path
) -> dict[int, dict[str, Any]]:
    """One proxy's answers. It runs until it has logged them all."""
    async with behind(ports, arrived):
        with proxy(kind, config) as started:
            answers = await ask_all(started.port, dict(enumerate(asked)))
            await all_logged(log, len(asked))
    return answers


def _compare(
    seed: int,
    asked: list[Ask],
    seen: dict[str, dict[int, dict[str, Any]]],
    logged: dict[str, dict[str, str]],
    attempts: dict[str, Counter[str]],
) -> Iterator[str]:
    arrived: dict[int, list[str]] = defaultdict(list)
    for key in sorted({*attempts[KINDS[0]], *attempts[KINDS[1]]}):
        arrived[int(key.split(" ")[1])].append(key)
    for number, ask in enumerate(asked):
        ours, theirs = (settled(seen[kind][number], logged[kind].get(str(number), _UNKNOWN)) for kind in KINDS)
        for answer, kind in ((ours, KINDS[0]), (theirs, KINDS[1])):
            answer["attempts"] = [f"{key} x {attempts[kind][key]}" for key in arrived[number] if attempts[kind][key]]
        if ours != theirs:
            yield f"seed {seed}, request {number}: {ask}\n{differences(ours, theirs)}"


def test_the_same_seed_gives_the_same_tables() -> None:
    one, other = Tables(7, 5), Tables(7, 5)
    assert json.dumps(one.virtual_hosts) == json.dumps(other.virtual_hosts)
    assert str(Asker(7, one).ask()) == str(Asker(7, other).ask())
