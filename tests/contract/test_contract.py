"""Every case of the table, by everybody who runs filters, in every lane: the same outcome."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.contract import by_harness, by_proxy, by_simulator
from tests.contract.case import LANES, Case, Lane, Runner, judge
from tests.contract.in_c import compiled
from tests.contract.table import CASES


def cases(runner: Runner) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(one, id=one.name) for one in CASES if runner in one.by])


def lanes(runner: Runner) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lane", LANES[runner])


@pytest.fixture(scope="module", params=LANES["proxy"])
def proxy(request: pytest.FixtureRequest) -> Iterator[by_proxy.Running]:
    with by_proxy.running([one for one in CASES if "proxy" in one.by], request.param) as started:
        yield started


@cases("harness")
@lanes("harness")
def test_by_the_harness(case: Case, lane: Lane) -> None:
    assert judge(case, by_harness.run(case, lane)) == []


@cases("simulator")
@lanes("simulator")
def test_by_the_simulator(case: Case, lane: Lane) -> None:
    assert judge(case, by_simulator.run(case, lane)) == []


@cases("proxy")
def test_by_the_proxy(case: Case, proxy: by_proxy.Running) -> None:
    assert judge(case, proxy.run(case)) == []


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    folder = tmp_path_factory.mktemp("compiled")
    made, built = compiled([case for case in CASES if "simulator" in case.by], folder)
    # What is compared below are hooks in C, not only Python in another guise.
    assert sum(hook.body is not None for hook in built.hooks) > len(made) // 3, built.hooks
    sys.path.insert(0, str(folder))
    yield made
    sys.path.remove(str(folder))


@cases("simulator")
def test_compiled_by_the_simulator(case: Case, in_c: dict[str, Case]) -> None:
    assert judge(case, by_simulator.run(in_c[case.name])) == []


def test_the_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("what", ["status", "upstream", "failures"])
def test_a_wrong_expectation_is_found(what: str) -> None:
    """The judge itself: a table that cannot fail would be worth nothing."""
    wrong = {"status": 299, "upstream": {"x-none": "yes"}, "failures": 7}
    case = Case("wrong", "pass", **{what: wrong[what]})
    assert len(judge(case, by_harness.run(case))) == 1
