"""The report as a picture: latencies by percentile, latencies and answers over time. Needs matplotlib."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from pymesh.bench.errors import BenchError
from pymesh.bench.histogram import Histogram
from pymesh.bench.report import Report

_INTENDED, _SENT, _GREY, _RED = "#2a6f97", "#e07a2f", "#b8c4cc", "#c1121f"


def require() -> None:
    """Raises before a run whose picture could not be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError("--png needs matplotlib, which is not installed; hint: pip install 'pymesh-proxy[bench]'")


def draw(report: Report, file: Path) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(14, 4.2))
    _by_percentile(report, left)
    _over_time(report, middle)
    _answers(report, right)
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    loop = f"open loop at {report.plan.rate:,.0f}/s" if report.plan.rate is not None else "closed loop"
    title = f"{report.urls[0]}: {report.protocol}, {report.plan.connections} connections, {loop}"
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _by_percentile(report: Report, axis: Any) -> None:
    # The share of requests that took longer, halved again and again: tails take as much room as what is common.
    shown = [(report.counts.service, _SENT, "from when it was sent")]
    if report.is_open:
        shown.append((report.counts.latency, _INTENDED, "from the intended start"))
    for histogram, colour, label in shown:
        axis.plot(*_curve(histogram), color=colour, label=label, drawstyle="steps-pre")
    axis.set_xscale("log")
    axis.set_yscale("log")
    ticks = {1: "0", 2: "50", 10: "90", 100: "99", 1_000: "99.9", 10_000: "99.99", 100_000: "99.999"}
    most = max(2, report.counts.latency.count)
    shown_ticks = [place for place in ticks if place <= most]
    axis.set_xticks(shown_ticks, [ticks[place] for place in shown_ticks])
    axis.minorticks_off()
    axis.set_xlabel("percentile", fontsize=8)
    axis.set_ylabel("latency, ms", fontsize=8)
    axis.legend(fontsize=8)


def _curve(histogram: Histogram) -> tuple[list[float], list[float]]:
    places, values, seen = list[float](), list[float](), 0
    for value, count in histogram.recorded:
        left = histogram.count - seen
        places.append(histogram.count / left)
        values.append(value / 1e6)
        seen += count
    if values:
        places.append(float(histogram.count))
        values.append(values[-1])
    return places, values


def _over_time(report: Report, axis: Any) -> None:
    width, bins = report.counts.bin_width, report.counts.bins
    known = [(at * width, one.latency) for at, one in enumerate(bins) if one.latency.count]
    times = [at for at, _ in known]
    for percent, colour, label in ((50, _GREY, "median"), (99, _INTENDED, "p99"), (100, _RED, "max")):
        values = [latency.percentile(percent) / 1e6 for _, latency in known]
        axis.plot(times, values, color=colour, label=label, linewidth=1.2)
    axis.set_yscale("log")
    axis.set_xlabel("intended start, s" if report.is_open else "start, s", fontsize=8)
    axis.set_ylabel("latency, ms", fontsize=8)
    axis.legend(fontsize=8)


def _answers(report: Report, axis: Any) -> None:
    width, bins = report.counts.bin_width, report.counts.bins
    times = [at * width for at in range(len(bins))]
    axis.plot(times, [one.answered / width for one in bins], color=_INTENDED, label="answers/s", linewidth=1.2)
    if any(one.failed for one in bins):
        axis.plot(times, [one.failed / width for one in bins], color=_RED, label="failures/s", linewidth=1.2)
    if report.plan.rate is not None:
        axis.axhline(report.plan.rate, color=_GREY, linestyle="--", linewidth=1, label="asked for")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("time, s", fontsize=8)
    axis.legend(fontsize=8)
