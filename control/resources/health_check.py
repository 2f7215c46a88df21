"""Our own resource: how the clients of a service find out whether its endpoints are well, by asking them.

Istio has none; the fields are those of Kuma's MeshHealthCheck, the targets those of the Gateway API's policies, the
defaults those of Kubernetes' probes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pymesh.control.resources.decode import Located, Problem, Range, exactly_one, model
from pymesh.control.resources.metadata import Resource

Status = Annotated[int, Range(100, 599)]
Threshold = Annotated[int, Range(1, 1000)]

_MOMENT = timedelta(milliseconds=1)


@model
class HealthCheckTarget(Located):
    """A Service, or a service by its host; ``sectionName`` is the name of one of its ports."""

    name: str
    kind: Literal["Service", "Hostname"]
    group: Literal["", "networking.istio.io"] = ""
    section_name: str = ""

    def problems(self) -> Iterator[Problem]:
        wanted = "networking.istio.io" if self.kind == "Hostname" else ""
        if self.group != wanted:
            yield Problem("kind", f"there is no {self.kind} in group {self.group!r}", f"write group: {wanted!r}")


@model
class HttpProbe(Located):
    """A request, and the answers that are good ones."""

    path: str
    #: Without one: the service's.
    host: str = ""
    method: Literal["GET", "HEAD", "OPTIONS"] = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Without any: 200.
    expected_statuses: tuple[Status, ...] = ()
    #: Answers that are bad only ``unhealthyThreshold`` times in a row.
    retriable_statuses: tuple[Status, ...] = ()
    #: What the body contains.
    receive: str = ""

    def problems(self) -> Iterator[Problem]:
        if not self.path.startswith("/"):
            yield Problem("path", f"{self.path!r} is not a path", "begin it with '/'")


@model
class TcpProbe(Located):
    """A connection; if something is to be received, an answer to what is sent."""

    send: str = ""
    receive: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if self.send and not self.receive:
            yield Problem("send", "nothing is sent where no answer is wanted", "add receive, or remove it")


@model
class GrpcProbe(Located):
    """``grpc.health.v1.Health/Check``."""

    service_name: str = ""
    authority: str = ""


@model
class HealthCheckPolicySpec(Located):
    """Whom to ask, what, and how often."""

    REFUSED: ClassVar = {
        "healthyPanicThreshold": "set outlierDetection.minHealthPercent in a DestinationRule",
        "failTrafficOnPanic": "set outlierDetection.minHealthPercent: 0 in a DestinationRule",
        "eventLogPath": "look at the proxy's /clusters and its counters",
        "alwaysLogHealthCheckFailures": "look at the proxy's /clusters and its counters",
        "targetRef": "write targetRefs, a list",
    }

    target_refs: tuple[HealthCheckTarget, ...]
    interval: timedelta = timedelta(seconds=10)
    timeout: timedelta = timedelta(seconds=1)
    unhealthy_threshold: Threshold = 3
    healthy_threshold: Threshold = 1
    initial_jitter: timedelta | None = None
    interval_jitter: timedelta | None = None
    interval_jitter_percent: Annotated[int, Range(0, 100)] = 0
    #: While a client does not use the service.
    no_traffic_interval: timedelta | None = None
    reuse_connection: bool = True
    http: HttpProbe | None = None
    tcp: TcpProbe | None = None
    grpc: GrpcProbe | None = None

    def problems(self) -> Iterator[Problem]:
        yield from exactly_one(self, "http", "tcp", "grpc")
        if not self.target_refs:
            yield Problem("targetRefs", "a policy is for a service", "name one")
        for name, value in (
            ("interval", self.interval),
            ("timeout", self.timeout),
            ("noTrafficInterval", self.no_traffic_interval),
        ):
            if value is not None and value < _MOMENT:
                yield Problem(name, f"{name!r} must be at least 1ms")


@model
class HealthCheckPolicy(Resource):
    """``extensions.pymesh.dev/v1alpha1`` HealthCheckPolicy."""

    spec: HealthCheckPolicySpec
    status: Any = None
