"""What the proxies' metrics say about the edges of the mesh. Pure but for the scrape."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pymesh.local import http
from pymesh.local.plan import Workload

_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(slots=True)
class Edge:
    """Requests from one workload to one service, as the caller's proxy saw them."""

    requests: int = 0
    failed: int = 0
    #: Upper bound in milliseconds -> requests at most that slow (cumulative).
    buckets: dict[float, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def success(self) -> float:
        """Share of requests that did not end in a 5xx, 0 to 1."""
        return 1.0 if not self.requests else 1 - self.failed / self.requests

    def quantile(self, q: float) -> float | None:
        """The q-quantile in milliseconds, interpolated in its bucket as Prometheus does; None without requests."""
        bounds = sorted(self.buckets)
        if not bounds or not self.buckets[bounds[-1]]:
            return None
        wanted = q * self.buckets[bounds[-1]]
        below, count = 0.0, 0.0
        for bound in bounds:
            if self.buckets[bound] >= wanted:
                if bound == float("inf"):
                    return below
                share = (wanted - count) / max(self.buckets[bound] - count, 1e-9)
                return below + (bound - below) * share
            below, count = bound, self.buckets[bound]
        return below


Edges = dict[tuple[str, str], Edge]


def samples(text: str) -> Iterable[tuple[str, Mapping[str, str], float]]:
    """Name, labels and value of each labelled sample of a Prometheus page."""
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match:
            yield match[1], dict(_LABEL.findall(match[2])), float(match[3])


def edges(pages: Iterable[str]) -> Edges:
    """The edges that these pages know."""
    found: Edges = defaultdict(Edge)
    for page in pages:
        for name, labels, value in samples(page):
            if labels.get("reporter") != "source":
                continue
            edge = (labels["source_workload"], labels["destination_service_name"])
            if name == "istio_requests_total":
                found[edge].requests += int(value)
                if labels["response_code"].startswith("5") or labels["response_code"] == "0":
                    found[edge].failed += int(value)
            elif name == "istio_request_duration_milliseconds_bucket":
                found[edge].buckets[float(labels["le"])] += value
    return dict(found)


async def scrape(workloads: Iterable[Workload]) -> list[str]:
    """The metrics page of every proxy that answers."""
    pages = []
    for workload in workloads:
        try:
            answer = await http.get(workload.admin_port, "/stats/prometheus", namespace=workload.network)
        except http.HttpError:
            continue
        pages.append(answer.body.decode())
    return pages
