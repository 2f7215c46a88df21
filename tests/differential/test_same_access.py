"""Random access policies: ours and Envoy let the same requests pass, refuse the same, and say the same of it."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.differential.asking import Ask
from tests.differential.client import ask_all
from tests.differential.judging import without_closest
from tests.differential.policies import IDENTITIES, Policies, by_client
from tests.differential.running import KINDS, all_logged, behind, rounds
from tests.proxy.running import proxy
from tests.tools.certificates import Authority, KeyPair
from tests.tools.ports import free_port, free_ports

HOSTS = 80


def test_same_access(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> None:
    pairs = {name: authority.issue(name, uris=[uri], dns=[f"{name}.test"]) for name, uri in IDENTITIES.items()}
    server = authority.issue("mesh.test", dns=["mesh.test"])
    wrong: list[str] = []
    verdicts: Counter[str] = Counter()
    for seed, count in rounds(request):
        policies = Policies(seed, HOSTS)
        asked = [policies.ask() for _ in range(count)]
        seen = {
            kind: asyncio.run(_ask(kind, policies, asked, tmp_path / f"{kind}-{seed}", server, pairs, authority.root))
            for kind in KINDS
        }
        for number, (who, ask) in enumerate(asked):
            ours, theirs = (str(seen[kind].get(number)) for kind in KINDS)
            verdicts[ours.split(" ")[0]] += 1
            if "[none]" in ours:
                verdicts["closest"] += "[none]{" in ours
            if without_closest(ours) != theirs:
                wrong.append(f"seed {seed}, request {number} of {who!r}: {ask}\n  ours {ours}, Envoy's {theirs}")
    shown = "\n".join(wrong[:40])
    assert not wrong, f"{len(wrong)} differences:\n{shown}"
    # A table that lets everybody pass, or nobody, would prove little.
    assert min(verdicts["200"], verdicts["403"], verdicts["closest"]) > sum(verdicts.values()) / 10, verdicts


async def _ask(
    kind: str,
    policies: Policies,
    asked: list[tuple[str, Ask]],
    log: Path,
    server: KeyPair,
    pairs: dict[str, KeyPair],
    root: Path,
) -> dict[int, Any]:
    """What the access log says of each request: status, details, flags."""
    origins = {"a": free_ports(1)}
    async with behind(origins, Counter()):
        ports = free_ports(2)
        config = policies.bootstrap(ports, free_port(), log, origins["a"], server, root)
        with proxy(kind, config):
            for who, numbers in by_client(asked).items():
                tls = None
                if who:
                    tls = ssl.create_default_context(cafile=str(root))
                    tls.load_cert_chain(pairs[who].chain, pairs[who].key)
                answers = await ask_all(ports[bool(who)], {number: asked[number][1] for number in numbers}, tls)
                assert len(answers) == len(numbers)
            logged = await all_logged(log, len(asked))
    return {int(line.split(" ")[0]): line.split(" ", 1)[1] for line in logged}
