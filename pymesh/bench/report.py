"""What a run says: figures derived from counts, doubts about them, and the JSON that machines read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pymesh.bench.quantities import milliseconds
from pymesh.bench.run import Counts, Plan
from pymesh.bench.thresholds import Threshold

#: Grows when something that was in the JSON changes its meaning or goes.
JSON_VERSION = 1

#: The generator was late enough to be told: p99 of its lag, and beside the median latency.
_LATE_NANOS = 1_000_000
_LATE_SHARE = 0.05
_BUSY = 0.9
_BEHIND = 0.98


@dataclass(frozen=True)
class Report:
    """One run."""

    urls: tuple[str, ...]
    plan: Plan
    counts: Counts
    #: Statuses (200) and classes (2) that are wanted; without any, those below 400.
    expected: frozenset[int]
    thresholds: Sequence[Threshold] = ()

    @property
    def is_open(self) -> bool:
        """Whether requests had intended starts."""
        return self.plan.rate is not None

    @property
    def protocol(self) -> str:
        """The version that was spoken."""
        return "HTTP/2" if self.plan.http2 else "HTTP/1.1"

    @property
    def answered(self) -> int:
        """Answers, whatever their status."""
        return sum(self.counts.statuses.values())

    @cached_property
    def unexpected(self) -> int:
        """Answers with a status that was not wanted."""
        return sum(count for status, count in self.counts.statuses.items() if not self._wants(status))

    def _wants(self, status: int) -> bool:
        return bool(self.expected & {status, status // 100}) if self.expected else status < 400

    @property
    def failed(self) -> int:
        """Requests without an answer."""
        return sum(count for count, _ in self.counts.failures.values())

    @property
    def errors(self) -> int:
        """Requests that did not get what was wanted."""
        return self.failed + self.unexpected

    @property
    def error_share(self) -> float:
        """The same, as a share of all that ended; without any, all."""
        ended = self.answered + self.failed
        return self.errors / ended if ended else 1.0

    @property
    def rate(self) -> float:
        """Answers per second, while requests began."""
        return self.counts.answered_in_time / self.counts.window if self.counts.window else 0.0

    @property
    def octets_per_second(self) -> float:
        """Of bodies."""
        return self.counts.body_octets / self.counts.window if self.counts.window else 0.0

    @cached_property
    def broken(self) -> list[Threshold]:
        """Thresholds that the run fails by."""
        return [one for one in self.thresholds if one.holds(self)]

    @property
    def has_failed(self) -> bool:
        """By a threshold, or by a status that was not the expected one."""
        return bool(self.broken) or bool(self.expected and self.errors)

    @cached_property
    def doubts(self) -> list[str]:
        """Why the figures may say something about the generator, or less than they seem to."""
        counts, found = self.counts, list[str]()
        if counts.interrupted:
            found.append(f"the run was cut short; {counts.unfinished:,} requests were under way and count as nothing")
        lag, median = counts.lag.percentile(99), counts.latency.percentile(50)
        if lag > _LATE_NANOS and lag > median * _LATE_SHARE:
            found.append(
                f"the generator was late: it came to 1 % of the requests more than {milliseconds(lag)} ms after their "
                "intended start, and the latencies include that; lower the rate, give it a core, or -w more workers"
            )
        if counts.busy > _BUSY:
            found.append(
                f"the generator used {counts.busy:.0%} of a core for a worker: it may be what limits the rate; "
                "-w more workers if there are cores for them"
            )
        if self.plan.rate is not None and not counts.interrupted and self.rate < self.plan.rate * _BEHIND:
            found.append(
                f"{self.rate:,.1f} requests/s were answered of {self.plan.rate:,.1f} that were asked for: "
                "the target does not keep up, or what it answers late is answered after the end"
            )
        if counts.waiting_most:
            found.append(
                f"up to {counts.waiting_most:,} requests of a worker waited for a connection with room, and latencies "
                "include that; -c more connections if a real client would have them"
            )
        if "timeout" in counts.failures:
            found.append(
                f"{counts.failures['timeout'][0]:,} requests had no answer within {self.plan.timeout:g} s; in the "
                "latencies they count with the time that they had"
            )
        return found

    def as_json(self) -> dict[str, Any]:
        """See docs/guide/benchmarks.md."""
        plan, counts = self.plan, self.counts
        return {
            "version": JSON_VERSION,
            "target": {
                "urls": list(self.urls),
                "address": plan.address,
                "method": plan.requests[0].method,
                "protocol": self.protocol,
                "tls": plan.tls is not None,
            },
            "load": {
                "mode": "open" if self.is_open else "closed",
                "rate": plan.rate,
                "arrivals": None if not self.is_open else "constant" if plan.poisson_seed is None else "poisson",
                "seed": plan.poisson_seed,
                "workers": plan.workers,
                "connections": plan.connections,
                "streams": plan.streams,
                "keep_alive": plan.keep_alive,
                "duration_s": plan.duration,
                "requests": plan.count,
                "warm_up_s": plan.warm_up,
                "timeout_s": plan.timeout,
            },
            "interrupted": counts.interrupted,
            "window_s": round(counts.window, 6),
            "requests": {
                "begun": counts.begun,
                "answered": self.answered,
                "failed": self.failed,
                "unexpected_status": self.unexpected,
                "unfinished": counts.unfinished,
                "resent": counts.resent,
            },
            "rate": round(self.rate, 3),
            "body_octets": counts.body_octets,
            "latency_ms": counts.latency.summary(),
            "service_ms": counts.service.summary(),
            "statuses": {str(status): count for status, count in sorted(counts.statuses.items())},
            "failures": {
                kind: {"count": count, "examples": examples} for kind, (count, examples) in counts.failures.items()
            },
            "connections": {
                "opened": counts.connections_opened,
                "failed": counts.connections_failed,
                "closed_by_target": counts.connections_closed_by_target,
                "connect_ms": counts.connect.summary(),
            },
            "generator": {
                "lag_ms": counts.lag.summary(),
                "waiting_most": counts.waiting_most,
                "busy": round(counts.busy, 4),
            },
            "series": {
                "width_s": counts.bin_width,
                "answered": [one.answered for one in counts.bins],
                "failed": [one.failed for one in counts.bins],
                **{
                    f"{name}_ms": [
                        round(one.latency.percentile(percent) / 1e6, 6) if one.latency.count else None
                        for one in counts.bins
                    ]
                    for name, percent in (("p50", 50), ("p99", 99), ("max", 100))
                },
            },
            "histogram_ns": {"latency": list(counts.latency.recorded), "service": list(counts.service.recorded)},
            "thresholds": [
                {"condition": one.text, "value": one.value(self), "failed": one in self.broken}
                for one in self.thresholds
            ],
            "doubts": self.doubts,
        }
