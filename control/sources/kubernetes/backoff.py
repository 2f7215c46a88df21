"""How long to wait before the next try: longer each time, and not in step with others."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Exponential, with half of each wait at random: a server that comes back is not asked by all at once."""

    first: float = 0.2
    longest: float = 30.0
    random: random.Random = field(default_factory=random.Random)
    _failures: int = 0

    def failed(self, at_least: float = 0.0) -> float:
        """Seconds to wait after one more failure; ``at_least`` is what the server asks for."""
        whole = min(self.first * 2.0**self._failures, self.longest)
        # Far past the longest wait further doublings change nothing.
        self._failures = min(self._failures + 1, 32)
        return max(whole / 2 + self.random.random() * whole / 2, at_least)

    def succeeded(self) -> None:
        """Begin anew."""
        self._failures = 0
