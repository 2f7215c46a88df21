"""The last seconds of the mesh: what each tick counted, added up, so that rates are calm and still follow.

Ticks do not come at equal distances, so that a rate is the sum of what they counted by the time they took together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pymesh.control.live.samples import Counts, Link

#: How far back rates and percentiles look.
SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Tick:
    """One round over all proxies."""

    #: Unix time at its end.
    at: float
    #: Since the round before.
    seconds: float
    links: Mapping[Link, Counts]
    #: Namespace and name of a workload -> requests in its proxy.
    in_flight: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Total:
    """What the ticks of a window say together."""

    at: float
    seconds: float
    links: Mapping[Link, Counts]
    in_flight: Mapping[tuple[str, str], int]


class Window:
    """The ticks of the last :data:`SECONDS`."""

    def __init__(self) -> None:
        self._ticks: deque[Tick] = deque()

    def add(self, tick: Tick) -> Total:
        """The window with one more tick, and without those that it has outrun."""
        self._ticks.append(tick)
        while len(self._ticks) > 1 and sum(one.seconds for one in self._ticks) - self._ticks[0].seconds >= SECONDS:
            self._ticks.popleft()
        seconds = sum(one.seconds for one in self._ticks)
        return Total(tick.at, seconds, added(one.links for one in self._ticks), tick.in_flight)


def added(parts: Iterable[Mapping[Link, Counts]]) -> dict[Link, Counts]:
    """All counts, by link."""
    total: dict[Link, Counts] = {}
    for part in parts:
        for link, counts in part.items():
            total.setdefault(link, Counts()).add(counts)
    return total
