"""Who writes: never two at a time, whatever the network does to them, and never nobody for long."""

import heapq
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pymesh.control.sources.kubernetes.lease import Election, Times

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = Times()


class World:
    """An API server with one Lease, candidates, and a network that delays and loses, on a clock of its own."""

    def __init__(self, seed: int, candidates: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.spec: dict[str, Any] | None = None
        self.version = 0
        self.elections = [Election(f"c{n}") for n in range(candidates)]
        self.is_dead = [False] * candidates
        #: Each has a wall clock of its own, minutes off.
        self.off = [timedelta(seconds=self.random.uniform(-600, 600)) for _ in range(candidates)]
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.slow = 0.0
        for n in range(candidates):
            self.at(self.random.random(), lambda n=n: self.turn(n))  # type: ignore[misc]

    def at(self, time: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (time, self._count, do))

    def latency(self) -> float:
        return self.random.uniform(6, 20) if self.random.random() < self.slow else self.random.uniform(0.001, 0.2)

    def turn(self, n: int) -> None:
        """One try, as ``Lease`` makes it: read, decide, write if nobody wrote in between; half the deadline at most."""
        if self.is_dead[n]:
            return
        asked_at, there = self.now, self.now + self.latency()
        self.at(self.now + TIMES.retry * self.random.uniform(1.0, 1.2), lambda: self.turn(n))

        def read() -> None:
            back, seen, version = self.now + self.latency(), self.spec, self.version
            self.at(back, lambda: decide(seen, version))

        def decide(seen: dict[str, Any] | None, version: int) -> None:
            if self.is_dead[n] or self.now > asked_at + TIMES.renew_deadline / 2:
                return
            wanted = self.elections[n].wanted(seen, self.now, EPOCH + timedelta(seconds=self.now) + self.off[n])
            if wanted is not None:
                self.at(self.now + self.latency(), lambda: write(wanted, version))

        def write(wanted: dict[str, Any], version: int) -> None:
            is_taken = version == self.version
            if is_taken:
                self.spec, self.version = wanted, self.version + 1
            self.at(self.now + self.latency(), lambda: answered(is_taken))

        def answered(is_taken: bool) -> None:
            if self.is_dead[n] or self.now > asked_at + TIMES.renew_deadline / 2:
                return
            if is_taken:
                self.elections[n].written(asked_at)
            else:
                self.elections[n].lost()

        self.at(there, read)

    def run(self, until: float) -> None:
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, do = heapq.heappop(self._agenda)
            do()
            assert len(self.leaders()) <= 1, f"at {self.now}: {self.leaders()}"
        self.now = until

    def leaders(self) -> list[int]:
        return [n for n, one in enumerate(self.elections) if not self.is_dead[n] and one.leads(self.now)]


@pytest.mark.parametrize("seed", range(30))
def test_one_leads_and_another_follows_when_it_dies(seed: int) -> None:
    world = World(seed, 3)
    world.run(10)
    (first,) = world.leaders()
    world.run(300)
    assert world.leaders() == [first], "it goes on as long as it lives"
    world.is_dead[first] = True
    world.run(300 + TIMES.duration + 2 * TIMES.retry + 5)
    (second,) = world.leaders()
    assert second != first
    assert world.spec is not None
    assert world.spec["leaseTransitions"] == 1


@pytest.mark.parametrize("seed", range(30))
def test_a_network_that_loses_much_never_makes_two(seed: int) -> None:
    world = World(seed, 4)
    world.slow = 0.3
    world.run(600)  # the assertion is in there
    world.slow = 0.0
    world.run(700)
    assert len(world.leaders()) == 1


def test_who_ends_lets_go_and_the_next_need_not_wait() -> None:
    first, second = Election("a"), Election("b")
    spec = first.wanted(None, 0.0, EPOCH)
    first.written(0.0)
    assert second.wanted(spec, 0.5, EPOCH) is None
    spec = first.released(spec, EPOCH)
    assert not first.leads(0.6)
    taken = second.wanted(spec, 1.0, EPOCH)
    assert taken is not None
    assert taken["holderIdentity"] == "b"
    assert first.released(taken, EPOCH) is None, "what is another's is left alone"


def test_a_leader_that_hears_nothing_stops_before_others_may_begin() -> None:
    first, second = Election("a"), Election("b")
    spec = first.wanted(None, 0.0, EPOCH)
    first.written(0.0)
    assert second.wanted(spec, 0.0, EPOCH) is None
    assert first.leads(TIMES.renew_deadline - 0.001)
    assert not first.leads(TIMES.renew_deadline)
    assert second.wanted(spec, TIMES.duration - 0.001, EPOCH) is None
    assert second.wanted(spec, TIMES.duration, EPOCH) is not None
