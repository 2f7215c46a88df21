"""`--fail-if`: what a run must not be, and whether it was."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymesh.bench.errors import BenchError
from pymesh.bench.quantities import seconds

if TYPE_CHECKING:
    from pymesh.bench.report import Report

_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_EXPRESSION = re.compile(r"\s*([a-z]+)(\d+(?:\.\d+)?)?\s*(>=|<=|>|<)\s*(\S+?)\s*")
_HINT = "hint: write 'p99>20ms', 'max>1s', 'errors>0.1%', 'errors>0' or 'rate<900'"


@dataclass(frozen=True)
class Threshold:
    """A condition that makes a run fail."""

    text: str
    metric: str
    #: Of a percentile.
    percent: float
    comparison: str
    limit: float
    #: The limit of `errors` is a share of all requests.
    is_share: bool = False

    def value(self, report: Report) -> float:
        """The metric of a run: seconds, a count, a share, or requests per second."""
        latency = report.counts.latency
        match self.metric:
            case "p":
                return latency.percentile(self.percent) / 1e9
            case "min":
                return latency.least / 1e9
            case "mean":
                return latency.mean / 1e9
            case "max":
                return latency.most / 1e9
            case "rate":
                return report.rate
            case _:
                return report.error_share if self.is_share else report.errors

    def holds(self, report: Report) -> bool:
        """Whether the run fails by it. A run without any answer fails by each bound on its latencies."""
        if self.metric in ("p", "min", "mean", "max") and not report.counts.latency.count:
            return True
        return bool(_OPERATORS[self.comparison](self.value(report), self.limit))


def parse(text: str) -> Threshold:
    """`METRIC OPERATOR VALUE`."""
    found = _EXPRESSION.fullmatch(text)
    if not found:
        raise BenchError(f"--fail-if {text!r} is not a condition; {_HINT}")
    metric, percent, comparison, limit = found.groups()
    try:
        if metric == "p" and percent is not None and float(percent) <= 100:
            return Threshold(text, metric, float(percent), comparison, seconds("--fail-if", limit))
        if metric in ("min", "mean", "max") and percent is None:
            return Threshold(text, metric, 0.0, comparison, seconds("--fail-if", limit))
        if metric == "errors" and percent is None:
            share = limit.endswith("%")
            return Threshold(
                text, metric, 0.0, comparison, float(limit.rstrip("%")) / (100 if share else 1), is_share=share
            )
        if metric == "rate" and percent is None:
            return Threshold(text, metric, 0.0, comparison, float(limit))
    except ValueError:
        raise BenchError(f"--fail-if {text!r}: {limit!r} is not a number; {_HINT}") from None
    raise BenchError(f"--fail-if {text!r}: `{metric}{percent or ''}` is not measured; {_HINT}")
