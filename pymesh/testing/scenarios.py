"""A scenario under many seeds, on all processors; what one seed finds, that seed shows again.

    def test_no_storm() -> None:
        seeds(scenario, 1000)

A scenario takes a seed and raises what is wrong (an `assert`). `PYMESH_SEED=17` in the environment runs that seed
alone, in the test's own process, for a debugger.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Scenario = Callable[[int], object]
#: Of the failures of a run: so many are shown whole.
_SHOWN = 3

#: The scenario of a run, for the processes that are forked from this one: it need not be a function of a module.
_scenario: Scenario | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A seed that has failed."""

    seed: int
    traceback: str

    @property
    def reason(self) -> str:
        """The last line of it."""
        return self.traceback.strip().splitlines()[-1]


class SeedsFailedError(AssertionError):
    """Some seeds fail."""

    def __init__(self, found: list[Found], tried: int) -> None:
        self.found = found
        numbers = ", ".join(str(one.seed) for one in found[:20]) + (", ..." if len(found) > 20 else "")
        shown = "\n".join(f"--- seed {one.seed}\n{one.traceback}" for one in found[:_SHOWN])
        super().__init__(
            f"{len(found)} of {tried} seeds fail: {numbers}\n{shown}"
            f"hint: PYMESH_SEED={found[0].seed} runs the first one alone"
        )


def seeds(scenario: Scenario, which: int | Iterable[int], *, processes: int | None = None) -> None:
    """Run a scenario under each seed; a number stands for so many, from 0. Raises :class:`SeedsFailedError`
    with all that fail."""
    found = failing(scenario, which, processes=processes)
    if found:
        alone = os.environ.get("PYMESH_SEED")
        raise SeedsFailedError(found, 1 if alone else len(_numbers(which)))


def failing(scenario: Scenario, which: int | Iterable[int], *, processes: int | None = None) -> list[Found]:
    """The seeds that fail, in their order."""
    alone = os.environ.get("PYMESH_SEED")
    if alone:
        # Whatever it raises is the test's own, for a debugger to stop at.
        scenario(int(alone))
        return []
    numbers = _numbers(which)
    workers = min(processes or len(os.sched_getaffinity(0)), max(1, len(numbers)))
    return [one for one in _run(scenario, numbers, workers) if one is not None]


def _numbers(which: int | Iterable[int]) -> list[int]:
    return list(range(which)) if isinstance(which, int) else list(which)


def _run(scenario: Scenario, numbers: list[int], workers: int) -> Iterator[Found | None]:
    global _scenario
    if workers == 1:
        _scenario = scenario
        yield from map(_try, numbers)
        return
    _scenario = scenario
    with warnings.catch_warnings():
        # Threads of a test runner do not matter: what is forked runs nothing of theirs.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            yield from pool.imap(_try, numbers, chunksize=4)


def _try(seed: int) -> Found | None:
    assert _scenario is not None
    try:
        _scenario(seed)
    except Exception:
        return Found(seed, traceback.format_exc())
    return None
