"""Many seeds: a scenario holds under each, and a planted retry storm is found, and found again by its seed.

`make seeds` runs a thousand (`PYMESH_SEEDS`), and says how long that takes.
"""

from __future__ import annotations

import os
import time

import pytest

from pymesh.testing import seeds
from pymesh.testing.scenarios import SeedsFailedError, failing
from tests.unit.testing.scenario import calm, stormy, visited
from tests.unit.testing.shop import EVERYWHERE

SEEDS = int(os.environ.get("PYMESH_SEEDS", "200"))


def test_no_seed_finds_a_fault() -> None:
    begun = time.monotonic()
    seeds(calm, SEEDS)
    print(f"{SEEDS} seeds of a mesh of three services: {time.monotonic() - begun:.1f} s")


def test_a_planted_retry_storm_is_found_and_reproduced(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SeedsFailedError) as caught:
        seeds(stormy, 60)
    found = caught.value.found
    assert len(found) > 2
    assert all("visits have become" in one.reason for one in found)
    first = found[0]
    assert f"PYMESH_SEED={first.seed} runs the first one alone" in str(caught.value)
    # The same seed alone, in this process: the same storm, request by request.
    monkeypatch.setenv("PYMESH_SEED", str(first.seed))
    with pytest.raises(AssertionError) as again:
        seeds(stormy, 60)
    assert first.reason == f"AssertionError: {str(again.value).splitlines()[0]}"
    with visited(EVERYWHERE, first.seed) as one, visited(EVERYWHERE, first.seed) as other:
        assert one.transcript == other.transcript
        assert one.transcript.count("ratings-1.shop gets") > 60 or one.transcript.count("reviews-1.shop gets") > 60


def test_seeds_by_name_and_in_any_number_of_processes() -> None:
    def scenario(seed: int) -> None:
        assert seed % 7, f"{seed} is a multiple"

    for processes in (1, 2, 3):
        assert [one.seed for one in failing(scenario, range(1, 30), processes=processes)] == [7, 14, 21, 28]
    with pytest.raises(SeedsFailedError, match="1 of 2 seeds fail: 7"):
        seeds(scenario, [7, 8])
