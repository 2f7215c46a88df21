"""Every case of the table, by everybody who runs filters: the same outcome."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract import by_harness, by_proxy, by_simulator
from tests.contract.case import Case, judge
from tests.contract.table import CASES

_RUN_BY_PROXY = [case for case in CASES if "proxy" in case.by]


def cases(runner: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(one, id=one.name) for one in CASES if runner in one.by])


@pytest.fixture(scope="module")
def proxy() -> Iterator[by_proxy.Running]:
    with by_proxy.running(_RUN_BY_PROXY) as started:
        yield started


@cases("harness")
def test_by_the_harness(case: Case) -> None:
    assert judge(case, by_harness.run(case)) == []


@cases("simulator")
def test_by_the_simulator(case: Case) -> None:
    assert judge(case, by_simulator.run(case)) == []


@cases("proxy")
def test_by_the_proxy(case: Case, proxy: by_proxy.Running) -> None:
    assert judge(case, proxy.run(case)) == []


def test_the_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("what", ["status", "upstream", "failures"])
def test_a_wrong_expectation_is_found(what: str) -> None:
    """The judge itself: a table that cannot fail would be worth nothing."""
    wrong = {"status": 299, "upstream": {"x-none": "yes"}, "failures": 7}
    case = Case("wrong", "pass", **{what: wrong[what]})
    assert len(judge(case, by_harness.run(case))) == 1
