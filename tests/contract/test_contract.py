"""Every case of the table, by everybody who runs filters, in every lane: the same outcome."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.contract import by_harness, by_proxy, by_simulator
from tests.contract.case import LANES, Case, Lane, Outcome, Runner, judge
from tests.contract.in_c import compiled
from tests.contract.table import CASES


def cases_of(runner: Runner, lane: Lane) -> list[Case]:
    return [one for one in CASES if runner in one.by and lane in one.lanes]


def cases(runner: Runner, *lanes: Lane) -> pytest.MarkDecorator:
    """A test of each case in each of the lanes."""
    pairs = [pytest.param(one, lane, id=f"{lane}-{one.name}") for lane in lanes for one in cases_of(runner, lane)]
    return pytest.mark.parametrize(("case", "lane"), pairs)


@functools.cache
def in_proxies(lane: Lane) -> Mapping[str, Outcome | Exception]:
    """What comes of all cases of a lane in one proxy, by their names."""
    return in_proxy(cases_of("proxy", lane), lane)


def in_proxy(cases: Sequence[Case], lane: Lane) -> Mapping[str, Outcome | Exception]:
    try:
        return by_proxy.run(cases, lane)
    except Exception as error:  # once, and not once for each of them
        return {case.name: error for case in cases}


def judged(case: Case, outcome: Outcome | Exception) -> list[str]:
    assert isinstance(outcome, Outcome), outcome
    return judge(case, outcome)


@cases("harness", *LANES)
def test_by_the_harness(case: Case, lane: Lane) -> None:
    assert judge(case, by_harness.run(case, lane)) == []


@cases("simulator", *LANES)
def test_by_the_simulator(case: Case, lane: Lane) -> None:
    assert judge(case, by_simulator.run(case, lane)) == []


@cases("proxy", *LANES)
def test_by_the_proxy(case: Case, lane: Lane) -> None:
    assert judged(case, in_proxies(lane)[case.name]) == []


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        # Hundreds of classes, of which each is called once.
        patch.setenv("CXXFLAGS", "-O0")
        made, built = compiled(cases_of("simulator", "inline"), folder)
    # What is compared below are hooks in C, not only Python in another guise.
    assert sum(hook.body is not None for hook in built.hooks) > len(made) // 3, built.hooks
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder))
        yield made


@pytest.fixture(scope="module")
def in_c_in_proxy(in_c: dict[str, Case]) -> Mapping[str, Outcome | Exception]:
    return in_proxy(list(in_c.values()), "inline")


@cases("simulator", "inline")
def test_compiled_by_the_simulator(case: Case, lane: Lane, in_c: dict[str, Case]) -> None:
    assert judge(case, by_simulator.run(in_c[case.name], lane)) == []


@cases("simulator", "inline")
def test_compiled_by_the_proxy(
    case: Case, lane: Lane, in_c: dict[str, Case], in_c_in_proxy: Mapping[str, Outcome | Exception]
) -> None:
    assert judged(in_c[case.name], in_c_in_proxy[case.name]) == []


def test_the_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("what", ["status", "upstream", "failures"])
def test_a_wrong_expectation_is_found(what: str) -> None:
    """The judge itself: a table that cannot fail would be worth nothing."""
    wrong = {"status": 299, "upstream": {"x-none": "yes"}, "failures": 7}
    case = Case("wrong", "pass", **{what: wrong[what]})
    assert len(judge(case, by_harness.run(case))) == 1
