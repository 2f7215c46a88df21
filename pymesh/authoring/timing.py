"""What a call of a hook costs: the numbers of `pymesh filter bench`."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymesh import _bridge
from pymesh.authoring.build import BuildError, build
from pymesh.authoring.check import find
from pymesh.authoring.file import AuthorError

#: A browser's request and its answer: what hooks find beside the fields they look for.
_REQUEST = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br"),
    ("cookie", "session=4f1c2a9b7d; theme=dark"),
    ("x-forwarded-for", "192.0.2.7"),
    ("x-forwarded-proto", "http"),
    ("x-request-id", "8f14e45f-ceea-467f-a8f2-0d3c1b5a7e90"),
]
_RESPONSE = [
    ("content-type", "text/html; charset=utf-8"),
    ("content-length", "5120"),
    ("cache-control", "private, max-age=0"),
    ("date", "Thu, 26 Nov 2026 09:00:00 GMT"),
    ("x-envoy-upstream-service-time", "3"),
]


@dataclass(frozen=True, slots=True)
class Result:
    """One hook on one tier: nanoseconds for a call, one figure for each batch."""

    hook: str
    tier: str
    batches: tuple[float, ...]
    note: str = ""

    def median(self) -> float:
        """The middle batch."""
        return statistics.median(self.batches)

    def spread(self) -> tuple[float, float]:
        """The 10th and the 90th percentile."""
        tenths = statistics.quantiles(self.batches, n=10, method="inclusive")
        return tenths[0], tenths[-1]

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        low, high = self.spread()
        return {"hook": self.hook, "tier": self.tier, "median_ns": self.median(), "p10_ns": low, "p90_ns": high}


def message(method: str, path: str, headers: tuple[str, ...], status: int) -> tuple[Any, Any]:
    """A request and a response, as the extension takes them."""
    own: list[tuple[str, str]] = []
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise AuthorError(f"{header!r} is not a header\nhint: write it as 'x-user: ann'")
        own.append((name.strip(), value.strip()))
    given = {name.lower() for name, _ in own}
    common = [one for one in _REQUEST if one[0] not in given]
    return (method, path, "service.test", [*common, *own]), (status, _RESPONSE)


def compare(target: str, config: Mapping[str, Any] | None, heads: tuple[Any, Any], calls: int) -> list[Result]:
    """Every hook of heads of every filter, interpreted and, where it is a file that can be compiled, compiled."""
    author, classes = find(target)
    results: list[Result] = []
    settings = json.dumps(dict(config or {}))
    is_file = Path(target).exists()
    note = ""
    with tempfile.TemporaryDirectory(prefix="pymesh-bench-") as folder:
        if is_file:
            try:
                build(author, Path(folder))
            except BuildError as error:
                note = f"not timed compiled: {error}"
        # What lies beside the file can be imported, as where it will run; the compiled module comes first.
        before = sys.path[:]
        sys.path[:0] = [folder, str(author.path.resolve().parent)]
        try:
            for cls in classes:
                path = f"{author.path.stem}:{cls.__name__}" if is_file else target
                for source in [author.text, ""] if is_file and not note else [author.text if is_file else ""]:
                    timed = _bridge.time_hooks(path, source, settings, *heads, batches=max(4, calls // 256))
                    for hook, is_compiled, batches in timed:
                        tier = "in C" if is_compiled else "interpreted" if source or not is_file else "compiled"
                        results.append(Result(f"{cls.__name__}.{hook}", tier, tuple(batches), note))
        finally:
            sys.path[:] = before
            sys.modules.pop(author.path.stem, None)
    return sorted(results, key=lambda one: one.hook)
