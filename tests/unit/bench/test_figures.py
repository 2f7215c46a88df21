"""From counts to figures: percentiles, thresholds, errors, doubts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pymesh.bench import thresholds
from pymesh.bench.histogram import Histogram
from pymesh.bench.report import Report
from pymesh.bench.run import Bin, Counts, Plan, Request

MS = 1_000_000
HUNDRED = Histogram([(value * MS, 1) for value in range(1, 101)])
NONE = Histogram([])


def report(**changes: Any) -> Report:
    """A run of 100 requests, 1 to 100 ms; names of `Counts` and `Report` change it."""
    counts = Counts(
        interrupted=False,
        window=10.0,
        begun=100,
        answered_in_time=100,
        unfinished=0,
        resent=0,
        body_octets=1_000,
        waiting_most=0,
        busy=0.1,
        statuses={200: 100},
        failures={},
        connections_opened=1,
        connections_failed=0,
        connections_closed_by_target=0,
        latency=HUNDRED,
        service=HUNDRED,
        lag=NONE,
        connect=NONE,
        bin_width=0.1,
        bins=[Bin(1, 0, HUNDRED), Bin(0, 0, NONE)],
    )
    plan = Plan(
        address="127.0.0.1:80",
        tls=None,
        http2=False,
        keep_alive=True,
        requests=[Request("GET", "a", "/", [], b"")],
        workers=1,
        connections=10,
        streams=1,
        rate=None,
        poisson_seed=None,
        duration=10.0,
        count=None,
        warm_up=0.0,
        timeout=10.0,
    )
    of_counts = {name: value for name, value in changes.items() if hasattr(counts, name)}
    of_plan = {name: value for name, value in changes.items() if hasattr(plan, name)}
    rest = {name: value for name, value in changes.items() if name not in of_counts and name not in of_plan}
    made = Report(("http://a/",), replace(plan, **of_plan), replace(counts, **of_counts), frozenset())
    return replace(made, **rest)


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (90, 90), (99, 99), (99.9, 100), (100, 100)]
)
def test_a_percentile_is_a_value_that_was_seen(percent: float, value: int) -> None:
    assert HUNDRED.percentile(percent) == value * MS


def test_a_percentile_of_many_is_not_moved_by_rounding() -> None:
    thousand = Histogram([(value, 1) for value in range(1, 1_001)])
    assert [thousand.percentile(percent) for percent in (99.9, 99.99, 0.1)] == [999, 1_000, 1]


def test_the_rest_of_a_histogram() -> None:
    assert (HUNDRED.mean, HUNDRED.least, HUNDRED.most) == (50.5 * MS, MS, 100 * MS)
    assert round(HUNDRED.deviation / MS, 3) == 28.866
    assert (HUNDRED.above(90 * MS), HUNDRED.above(0)) == (10, 100)
    assert (NONE.percentile(50), NONE.mean, NONE.most, NONE.deviation) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("p99>20ms", True),
        ("p99 > 99ms", False),
        ("p99>=99ms", True),
        ("p99.9>0.0995s", True),
        ("max>1s", False),
        ("min<1ms", False),
        ("mean>50ms", True),
        ("errors>0", False),
        ("rate<10", False),
        ("rate<10.1", True),
    ],
)
def test_conditions(condition: str, holds: bool) -> None:
    assert thresholds.parse(condition).holds(report()) is holds


def test_errors_are_failures_and_unwanted_statuses() -> None:
    run = report(statuses={200: 90, 302: 5, 503: 3}, failures={"timeout": (2, ["no answer in time"])})
    assert (run.failed, run.unexpected, run.errors, run.error_share) == (2, 3, 5, 0.05)
    assert thresholds.parse("errors>4.9%").holds(run)
    assert not thresholds.parse("errors>5%").holds(run)
    assert thresholds.parse("errors>4").holds(run)
    assert not run.has_failed
    strict = replace(run, expected=frozenset({200, 5}))
    assert (strict.unexpected, strict.has_failed) == (5, True)


def test_a_run_without_an_answer_keeps_no_promise() -> None:
    dead = report(statuses={}, latency=NONE, service=NONE, failures={"connect": (7, ["refused"])}, answered_in_time=0)
    for condition in ("p99>20ms", "max>1s", "errors>50%", "rate<1"):
        assert thresholds.parse(condition).holds(dead), condition


def test_doubts() -> None:
    assert report().doubts == []
    late = report(rate=10.0, lag=Histogram([(5 * MS, 100)]))
    assert late.doubts[0].startswith("the generator was late: it came to 1 % of the requests more than 5.000 ms after")
    # Where the target takes seconds, milliseconds of ours change nothing.
    assert report(rate=10.0, lag=Histogram([(5 * MS, 100)]), latency=Histogram([(1_000 * MS, 100)])).doubts == []
    assert "96% of a core" in report(busy=0.96).doubts[0]
    assert report(rate=20.0).doubts[0].startswith("10.0 requests/s were answered of 20.0 that were asked for")
    assert report(waiting_most=3).doubts[0].startswith("up to 3 requests of a worker waited for a connection with room")
    assert "within 10 s" in report(failures={"timeout": (1, [])}).doubts[0]
    assert "were under way" in report(interrupted=True, unfinished=3).doubts[0]


def test_the_json_has_everything() -> None:
    found = report(rate=10.0, poisson_seed=7).as_json()
    assert found["version"] == 1
    assert found["load"]["mode"] == "open"
    assert (found["load"]["arrivals"], found["load"]["seed"]) == ("poisson", 7)
    assert found["latency_ms"] | {"mean": 0, "stdev": 0} == {
        "min": 1.0,
        "mean": 0,
        "stdev": 0,
        "p50": 50.0,
        "p75": 75.0,
        "p90": 90.0,
        "p95": 95.0,
        "p99": 99.0,
        "p99.9": 100.0,
        "p99.99": 100.0,
        "max": 100.0,
    }
    assert found["series"] == {
        "width_s": 0.1,
        "answered": [1, 0],
        "failed": [0, 0],
        "p50_ms": [50.0, None],
        "p99_ms": [99.0, None],
        "max_ms": [100.0, None],
    }
