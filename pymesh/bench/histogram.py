"""Values and how often each was seen, as the generator's HDR histograms give them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

#: What tables and JSON show; in percent.
PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)


@dataclass(frozen=True)
class Histogram:
    """Pairs (nanoseconds, how often), in order of the first."""

    recorded: Sequence[tuple[int, int]]

    @cached_property
    def count(self) -> int:
        """Values."""
        return sum(count for _, count in self.recorded)

    @property
    def least(self) -> int:
        """0 if there are no values, as all of these."""
        return self.recorded[0][0] if self.recorded else 0

    @property
    def most(self) -> int:
        """The largest value."""
        return self.recorded[-1][0] if self.recorded else 0

    @cached_property
    def mean(self) -> float:
        """The arithmetic one."""
        return sum(value * count for value, count in self.recorded) / self.count if self.count else 0.0

    @cached_property
    def deviation(self) -> float:
        """The standard deviation."""
        squares = sum((value - self.mean) ** 2 * count for value, count in self.recorded)
        return math.sqrt(squares / self.count) if self.count else 0.0

    def percentile(self, percent: float) -> int:
        """The smallest value that so many percent of all values do not exceed."""
        # Rounded before it is rounded up: 99.9 % of 1,000 are 999, whatever the float says.
        wanted = max(1, math.ceil(round(self.count * percent / 100, 6)))
        for value, count in self.recorded:
            wanted -= count
            if wanted <= 0:
                return value
        return self.most

    def above(self, nanos: float) -> int:
        """Values that are larger."""
        return sum(count for value, count in self.recorded if value > nanos)

    def summary(self) -> dict[str, float]:
        """In milliseconds, as JSON has it."""
        values = {"min": self.least, "mean": self.mean, "stdev": self.deviation}
        values |= {f"p{percent:g}": self.percentile(percent) for percent in PERCENTILES}
        return {name: round(value / 1e6, 6) for name, value in (values | {"max": self.most}).items()}
