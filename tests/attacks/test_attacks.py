"""Ten attackers of each class for a moment: memory stays bounded, honest clients notice nothing, the proxy recovers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.attacks.classes import ATTACKS, Attack
from tests.attacks.judge import battlefield, judge
from tests.proxy.bootstrap import Json
from tests.proxy.running import Proxy

SECONDS = 1.5


@pytest.fixture(scope="module")
def attacked(run_proxy: Callable[[Json], AbstractContextManager[Proxy]]) -> Iterator[Proxy]:
    """One proxy for all classes: what one leaves behind, the next would meet."""
    with battlefield(run_proxy) as proxy:
        yield proxy


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_proxy_under_attack_serves_others(attack: Attack, attacked: Proxy) -> None:
    outcome = judge(attack, attacked, SECONDS)
    assert attacked.process.alive(), attacked.process.tail()
    assert not outcome.failures(), outcome
