"""One proxy's metrics page, read again and again: by how much Istio's counters grew from page to page.

A proxy writes the same text before each value on every page, so that the labels of a series are taken apart once. The
first page of a proxy is where counting begins and says nothing yet; a series that is new later has grown from zero;
one that fell was reset with its proxy, and has grown from zero as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

#: Series of one page that are remembered; a page has about 30 for each pair of workloads and each kind of answer.
MOST_SERIES: Final = 100_000

_REQUESTS: Final = "istio_requests_total"
_DURATION: Final = "istio_request_duration_milliseconds_bucket"
_ACTIVE: Final = "envoy_http_downstream_rq_active"
_NAMES: Final = (_REQUESTS + "{", _DURATION + "{", _ACTIVE + "{")
#: What the manager of a sidecar's inbound listener is called, as in Istio.
_INBOUND: Final = "inbound_"
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(r"\\(.)")
#: gRPC statuses that are the server's fault (OpenTelemetry, semantic conventions for gRPC).
_GRPC_FAULTS: Final = frozenset({"2", "4", "12", "13", "14", "15"})
#: What Istio writes where it does not know, and where a workload has no version.
_NOTHING: Final = frozenset({"", "unknown", "latest"})


class End(NamedTuple):
    """One end of a link: the workloads of an application that have one version, or what is known of them."""

    namespace: str
    #: Istio's canonical service.
    app: str
    version: str = ""


class Link(NamedTuple):
    """Who sends requests to whom, as one of the two proxies tells it."""

    reporter: str
    source: End
    destination: End
    #: Namespace and name of the service that was called, and its host; empty where the proxy led the request nowhere.
    service: tuple[str, str]
    host: str
    protocol: str
    #: `mutual_tls`, `none`, or `unknown`: the caller's proxy does not say.
    security: str
    #: The caller's SPIFFE ID, where the called one's proxy knows it.
    principal: str


@dataclass(slots=True)
class Counts:
    """Requests over a link."""

    requests: float = 0.0
    failed: float = 0.0
    #: Upper bound in milliseconds -> requests at most that slow (cumulative).
    buckets: dict[float, float] = field(default_factory=dict)
    #: Status, and response flags or gRPC status if there are any -> requests.
    answers: dict[str, float] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Take another's requests as well."""
        self.requests += other.requests
        self.failed += other.failed
        for bound, count in other.buckets.items():
            self.buckets[bound] = self.buckets.get(bound, 0.0) + count
        for answer, count in other.answers.items():
            self.answers[answer] = self.answers.get(answer, 0.0) + count

    def quantile(self, q: float) -> float | None:
        """The q-quantile in milliseconds, interpolated in its bucket as Prometheus does; None without requests."""
        bounds = sorted(self.buckets)
        if not bounds or self.buckets[bounds[-1]] <= 0:
            return None
        wanted = q * self.buckets[bounds[-1]]
        below, count = 0.0, 0.0
        for bound in bounds:
            reached = self.buckets[bound]
            if reached >= wanted and reached > count:
                if bound == float("inf"):
                    return below
                return below + (bound - below) * (wanted - count) / (reached - count)
            below, count = bound, reached
        return below


@dataclass(slots=True)
class Growth:
    """What one page adds to the one before."""

    #: Every link that the page tells of, also those that nothing went over.
    links: dict[Link, Counts] = field(default_factory=dict)
    #: Requests that are in the proxy's inbound listeners now.
    in_flight: int = 0


@dataclass(slots=True)
class _Series:
    """A counter: what it counts, and how far it was."""

    link: Link
    #: Of a histogram: the bucket's bound.
    bound: float | None
    answer: str
    is_failure: bool
    value: float


class Page:
    """One proxy's page."""

    def __init__(self) -> None:
        self._series: dict[str, _Series] = {}
        self._is_first = True

    def read(self, text: str) -> Growth:
        """The growth since the last page."""
        growth = Growth()
        for name, value in _lines(text):
            if name.startswith(_ACTIVE):
                growth.in_flight += int(value) if f'"{_INBOUND}' in name else 0
                continue
            series = self._series.get(name)
            if series is None:
                if len(self._series) >= MOST_SERIES:
                    continue
                series = self._series[name] = _series(name)
                if self._is_first:
                    series.value = value
            grown, series.value = (value - series.value if value >= series.value else value), value
            counts = growth.links.get(series.link)
            if counts is None:
                counts = growth.links[series.link] = Counts()
            if grown or series.bound is not None:
                _count(counts, series, grown)
        self._is_first = False
        return growth


def _count(counts: Counts, series: _Series, grown: float) -> None:
    if series.bound is not None:
        counts.buckets[series.bound] = counts.buckets.get(series.bound, 0.0) + grown
        return
    counts.requests += grown
    counts.answers[series.answer] = counts.answers.get(series.answer, 0.0) + grown
    if series.is_failure:
        counts.failed += grown


def _lines(text: str) -> Iterator[tuple[str, float]]:
    """The samples that are read: everything before the value, and the value."""
    for line in text.splitlines():
        if line.startswith(_NAMES):
            name, _, value = line.rpartition(" ")
            try:
                yield name, float(value)
            except ValueError:
                continue


def _series(name: str) -> _Series:
    labels = {key: _ESCAPE.sub(_unescaped, value) for key, value in _LABEL.findall(name)}

    def label(key: str) -> str:
        return labels.get(key, "")

    link = Link(
        label("reporter"),
        _end(labels, "source"),
        _end(labels, "destination"),
        (_known(label("destination_service_namespace")), _known(label("destination_service_name"))),
        _known(label("destination_service")),
        label("request_protocol"),
        label("connection_security_policy") or "unknown",
        _known(label("source_principal")),
    )
    bound = float(label("le") or "inf") if name.startswith(_DURATION) else None
    status, flags, grpc = label("response_code"), label("response_flags"), label("grpc_response_status")
    answer = " ".join((status, *([flags] if flags not in ("", "-") else []), *([f"grpc {grpc}"] if grpc else [])))
    return _Series(link, bound, answer, _is_failure(status, grpc), 0.0)


def _end(labels: Mapping[str, str], side: str) -> End:
    app = _known(labels.get(f"{side}_canonical_service", "")) or _known(labels.get(f"{side}_workload", ""))
    version = labels.get(f"{side}_canonical_revision", "")
    return End(_known(labels.get(f"{side}_workload_namespace", "")), app, "" if version in _NOTHING else version)


def _known(value: str) -> str:
    return "" if value == "unknown" else value


def _is_failure(status: str, grpc: str) -> bool:
    return status.startswith("5") or status == "0" or grpc in _GRPC_FAULTS


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
