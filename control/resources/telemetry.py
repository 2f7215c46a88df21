"""Istio's Telemetry: which requests are traced, logged and counted, how, and who is told.

One without a selector is for its namespace, or for the mesh if it is in the root namespace; others are for the
workloads that they select. How they come together is in :mod:`pymesh.control.translate.telemetry`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, ClassVar, Final, Literal

from pymesh.control.resources import expression
from pymesh.control.resources.decode import Located, Problem, exactly_one, model
from pymesh.control.resources.header_values import HEADER_NAME
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.security import ProviderRef, Selector, TargetRef, two_ways_to_select

#: CLIENT: requests of the workload, and those to gateways. SERVER: requests to the workload.
Mode = Literal["CLIENT_AND_SERVER", "CLIENT", "SERVER"]
Side = Literal["CLIENT", "SERVER"]

#: Istio's metrics, as a Telemetry and as Prometheus call them (there with `istio_` before it).
METRICS: Final[Mapping[str, str]] = {
    "REQUEST_COUNT": "requests_total",
    "REQUEST_DURATION": "request_duration_milliseconds",
    "REQUEST_SIZE": "request_bytes",
    "RESPONSE_SIZE": "response_bytes",
    "GRPC_REQUEST_MESSAGES": "request_messages_total",
    "GRPC_RESPONSE_MESSAGES": "response_messages_total",
    "TCP_OPENED_CONNECTIONS": "tcp_connections_opened_total",
    "TCP_CLOSED_CONNECTIONS": "tcp_connections_closed_total",
    "TCP_SENT_BYTES": "tcp_sent_bytes_total",
    "TCP_RECEIVED_BYTES": "tcp_received_bytes_total",
}
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@model
class Match(Located):
    """Which requests of a workload are meant."""

    mode: Mode = "CLIENT_AND_SERVER"

    def takes(self, side: Side) -> bool:
        """Whether those of a side are."""
        return self.mode in ("CLIENT_AND_SERVER", side)


@model
class Literally(Located):
    """A text."""

    value: str


@model
class Environment(Located):
    """A variable of the proxy's environment."""

    name: str
    default_value: str = ""


@model
class RequestHeader(Located):
    """A header of the request."""

    name: str
    default_value: str = ""

    def problems(self) -> Iterator[Problem]:
        if not HEADER_NAME.fullmatch(self.name):
            yield Problem("name", f"{self.name!r} is not a header name")


@model
class CustomTag(Located):
    """The value of a tag of spans."""

    REFUSED: ClassVar = {"formatter": "use 'header', 'literal' or 'environment'"}

    literal: Literally | None = None
    environment: Environment | None = None
    header: RequestHeader | None = None

    def problems(self) -> Iterator[Problem]:
        yield from exactly_one(self, "literal", "environment", "header")


def tag_problems(tags: Mapping[str, CustomTag]) -> Iterator[Problem]:
    """What is wrong with the names of tags."""
    for name in tags:
        if not name or not name.isprintable():
            yield Problem("customTags", f"{name!r} is not the name of a tag", "a text that can be printed")


@model
class Tracing(Located):
    """Which requests are traced, and who collects the spans."""

    REFUSED: ClassVar = {
        "disableContextPropagation": "whoever is asked is always told the trace; remove it",
    }

    match: Match = Match()
    providers: tuple[ProviderRef, ...] = ()
    #: Of those that nobody before has decided about.
    random_sampling_percentage: float | None = None
    disable_span_reporting: bool | None = None
    custom_tags: Mapping[str, CustomTag] = field(default_factory=dict)
    #: Tell the service, namespace and revision of the proxy.
    enable_istio_tags: bool | None = None
    use_request_id_for_trace_sampling: bool | None = None

    def problems(self) -> Iterator[Problem]:
        if len(self.providers) > 1:
            yield Problem("providers", "spans go to one provider", "keep one of them", self.providers[1].at)
        share = self.random_sampling_percentage
        if share is not None and not 0 <= share <= 100:
            yield Problem("randomSamplingPercentage", f"{share} is no share", "0 to 100")
        if self.use_request_id_for_trace_sampling:
            hint = "whoever begins a trace decides, and traceparent tells it; remove it"
            yield Problem("useRequestIdForTraceSampling", "request ids say nothing of traces", hint)
        yield from tag_problems(self.custom_tags)


@model
class MetricSelector(Located):
    """Which of Istio's metrics is meant, on which side."""

    REFUSED: ClassVar = {"customMetric": "Istio's metrics are counted, and no others: name one with 'metric'"}

    metric: Literal[
        "ALL_METRICS",
        "REQUEST_COUNT",
        "REQUEST_DURATION",
        "REQUEST_SIZE",
        "RESPONSE_SIZE",
        "GRPC_REQUEST_MESSAGES",
        "GRPC_RESPONSE_MESSAGES",
        "TCP_OPENED_CONNECTIONS",
        "TCP_CLOSED_CONNECTIONS",
        "TCP_SENT_BYTES",
        "TCP_RECEIVED_BYTES",
    ] = "ALL_METRICS"
    mode: Mode = "CLIENT_AND_SERVER"

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that it is about."""
        return ("CLIENT", "SERVER") if self.mode == "CLIENT_AND_SERVER" else (self.mode,)

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics, as Prometheus calls them."""
        return tuple(METRICS.values()) if self.metric == "ALL_METRICS" else (METRICS[self.metric],)


@model
class TagOverride(Located):
    """What becomes of a label."""

    operation: Literal["UPSERT", "REMOVE"] = "UPSERT"
    #: CEL, of which :mod:`pymesh.control.resources.expression` says what is understood.
    value: str = ""

    def problems(self) -> Iterator[Problem]:
        if self.operation == "REMOVE":
            if self.value:
                yield Problem("value", "a label that is removed has no value", "remove one of the two")
        elif not self.value:
            yield Problem("", "'value' is missing", "as in value: request.method, or operation: REMOVE")
        else:
            try:
                expression.check_value(self.value)
            except expression.ExpressionError as error:
                yield Problem("value", str(error), error.hint)


@model
class MetricsOverride(Located):
    """What is counted otherwise than Istio's standard says."""

    match: MetricSelector = MetricSelector()
    disabled: bool | None = None
    tag_overrides: Mapping[str, TagOverride] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        for name in self.tag_overrides:
            if not _LABEL.fullmatch(name) or name == "le":
                hint = "letters, digits and '_'; 'le' is that of the buckets"
                yield Problem("tagOverrides", f"{name!r} is not the name of a label", hint)


@model
class Metrics(Located):
    """What is counted, and who reads it."""

    REFUSED: ClassVar = {"reportingInterval": "octets are counted as they pass; remove it"}

    providers: tuple[ProviderRef, ...] = ()
    overrides: tuple[MetricsOverride, ...] = ()


@model
class LogFilter(Located):
    """Which requests are logged."""

    #: CEL, of which :mod:`pymesh.control.resources.expression` says what is understood.
    expression: str

    def problems(self) -> Iterator[Problem]:
        try:
            expression.condition(self.expression)
        except expression.ExpressionError as error:
            yield Problem("expression", str(error), error.hint)


@model
class AccessLogging(Located):
    """Which requests are logged, and where."""

    match: Match = Match()
    providers: tuple[ProviderRef, ...] = ()
    disabled: bool | None = None
    filter: LogFilter | None = None


@model
class TelemetrySpec(Located):
    """For a namespace (the mesh, in the root namespace), or for the workloads or gateways that it selects."""

    REFUSED: ClassVar = {"targetRef": "write it as an entry of 'targetRefs'"}

    selector: Selector | None = None
    #: Gateways of the Gateway API.
    target_refs: tuple[TargetRef, ...] = ()
    tracing: tuple[Tracing, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    access_logging: tuple[AccessLogging, ...] = ()

    def problems(self) -> Iterator[Problem]:
        yield from two_ways_to_select(self)
        for one in self.target_refs:
            if one.kind != "Gateway":
                hint = "select a Service's workloads by their labels"
                yield Problem("", "a Telemetry is for a Gateway", hint, one.place("kind"))

    @property
    def is_narrow(self) -> bool:
        """Whether it is for some workloads only."""
        return bool(self.target_refs) or (self.selector is not None and bool(self.selector.match_labels))


@model
class Telemetry(Resource):
    """``telemetry.istio.io`` Telemetry."""

    spec: TelemetrySpec = TelemetrySpec()
    status: Any = None
