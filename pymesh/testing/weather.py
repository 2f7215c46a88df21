"""How long things take between two places of a mesh, and whether they arrive; all chance is of the mesh's seed.

Places are workloads (``web.shop``), hosts outside of the mesh, and ``outside``, where clients of gateways are. An
application and its own proxy are in one place, between which nothing takes time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pymesh.simulated.network import NANOS


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of one way, and what chance may add to it."""

    seconds: float
    jitter: float = 0.0


class Forecast:
    """A :class:`pymesh.simulated.network.Weather` that a test rules."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"weather {seed}")
        self.everywhere = Latency(0.0005)
        self.between: dict[frozenset[str], Latency] = {}
        self.parted: set[frozenset[str]] = set()

    def delay(self, source: str, target: str) -> int | None:
        """Of one way, now; None while the places are parted."""
        if source == target:
            return 0
        pair = frozenset((source, target))
        if pair in self.parted:
            return None
        latency = self.between.get(pair, self.everywhere)
        extra = self._random.uniform(0, latency.jitter) if latency.jitter else 0.0
        return round((latency.seconds + extra) * NANOS)
