"""Random token policies with rules about what tokens say: ours and Envoy admit the same, and say and tell the same."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from tests.differential.asking import Ask
from tests.differential.client import ask_all
from tests.differential.judging import differences, settled, without_closest
from tests.differential.running import KINDS, all_logged, behind, rounds
from tests.differential.tokens import FORGED, Tokens
from tests.proxy.running import proxy
from tests.tools.ports import free_port, free_ports

HOSTS = 60

Seen = tuple[dict[int, dict[str, Any]], dict[str, int]]


def test_same_tokens(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    wrong: list[str] = []
    verdicts: Counter[str] = Counter()
    for seed, count in rounds(request):
        tokens = Tokens(seed, HOSTS)
        asked = {number: tokens.ask() for number in range(count)}
        seen = {kind: asyncio.run(_ask(kind, tokens, asked, tmp_path / f"{kind}-{seed}")) for kind in KINDS}
        (ours, our_counters), (theirs, their_counters) = (seen[kind] for kind in KINDS)
        for number, ask in asked.items():
            verdicts[ours[number]["log"].split("{")[-1]] += 1
            assert not any(value == FORGED for _, value in ours[number].get("sent", ())), ask
            if found := differences(_comparable(ours[number]), _comparable(theirs[number])):
                wrong.append(f"seed {seed}, request {number}: {str(ask)[:300]}\n{found}")
        if our_counters != their_counters:
            wrong.append(f"seed {seed}: counters {our_counters}, Envoy's {their_counters}")
    shown = "\n".join(wrong[:40])
    assert not wrong, f"{len(wrong)} differences:\n{shown}"
    # Of every kind of verdict there are some, and neither side has nearly all.
    assert len(verdicts) > 20, verdicts
    admitted = sum(count for log, count in verdicts.items() if "via_upstream" in log)
    assert 0.15 < admitted / sum(verdicts.values()) < 0.85, verdicts


async def _ask(kind: str, tokens: Tokens, asked: dict[int, Ask], log: Path) -> Seen:
    """What came of each request, and what was counted."""
    port, origins = free_port(), {"a": free_ports(1)}
    async with behind(origins, Counter()):
        with proxy(kind, tokens.bootstrap(port, free_port(), log, origins["a"])) as started:
            answers = await ask_all(port, asked)
            assert len(answers) == len(asked)
            lines = await all_logged(log, len(asked))
            stats = await asyncio.to_thread(started.stats)
    logged = {}
    for line in lines:
        number, status, details, flags, metadata = line.split(" ", 4)
        logged[int(number)] = (f"{status} {without_closest(details)} {flags} -", metadata)
    seen = {}
    for number, answer in answers.items():
        log_line, metadata = logged[number]
        seen[number] = settled(answer, log_line) | {"metadata": None if metadata == "-" else json.loads(metadata)}
    return seen, {name: value for name, value in stats.items() if ".jwt_authn." in name}


def _comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """What the origin saw, but for what is meant to differ.

    Envoy takes a forged header away only where its provider judges; it writes several `authorization` as one; and where
    it takes a parameter from the query, it sorts and decodes the others.
    """
    if "sent" not in answer:
        return answer
    sent = [field for field in answer["sent"] if field[1] != FORGED]
    said = ",".join(sorted(part for name, value in sent if name == "authorization" for part in value.split(",")))
    target, _, query = answer["request"].partition("?")
    others = [field for field in sent if field[0] != "authorization"]
    return {**answer, "sent": [*others, ("authorization", said)], "request": [target, *sorted(parse_qsl(query, True))]}
