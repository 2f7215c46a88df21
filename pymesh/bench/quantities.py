"""Durations, percentages and counts, as people write them and as they are shown."""

from __future__ import annotations

import re

from pymesh.bench.errors import BenchError

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)?")


def seconds(option: str, text: str) -> float:
    """`1.5s`, `200ms`, `2m`; a bare number is seconds."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise BenchError(f"{option} {text!r} is not a duration; hint: write 10s, 500ms or 2m")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def milliseconds(nanos: float) -> str:
    """Three digits that mean something."""
    value = nanos / 1e6
    return f"{value:,.3f}" if value < 10 else f"{value:,.2f}" if value < 100 else f"{value:,.1f}"


def octets(count: float) -> str:
    """In the largest unit that leaves a digit before the point."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
