"""Who gets what proxies tell: the extension providers of the mesh's configuration that Telemetry resources name.

Who is asked about requests is in :mod:`pymesh.control.resources.mesh_config` beside the configuration itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Final

from pymesh.control.resources.decode import Located, PortNumber, Problem, Range, model
from pymesh.control.resources.header_values import CONTROL, HEADER_NAME, log_problems

SERVICE: Final = re.compile(r"(?:([a-z0-9][-a-z0-9]*)/)?([A-Za-z0-9_][-A-Za-z0-9_.]*)")


@model
class ServiceProvider(Located):
    """A provider that is a service of the mesh."""

    #: HOST or NAMESPACE/HOST of a service.
    service: str
    port: PortNumber

    @property
    def namespace(self) -> str:
        """The namespace that the service must be in, if one is written."""
        return self.service.rpartition("/")[0]

    @property
    def host(self) -> str:
        """The service's host."""
        return self.service.rpartition("/")[2]

    @property
    def is_grpc(self) -> bool:
        """Whether it is spoken to over gRPC; else over HTTP."""
        return True

    def problems(self) -> Iterator[Problem]:
        if not SERVICE.fullmatch(self.service):
            hint = "write it as in opa.authz.svc.cluster.local or authz/opa.example"
            yield Problem("service", f"{self.service!r} is not [NAMESPACE/]HOST", hint)


@model
class ExportHeader(Located):
    """A header that each export carries."""

    REFUSED: ClassVar = {"envName": "write the 'value'; the control plane's environment is not the proxies'"}

    name: str
    value: str

    def problems(self) -> Iterator[Problem]:
        if not HEADER_NAME.fullmatch(self.name):
            yield Problem("name", f"{self.name!r} is not a header name")
        if CONTROL.search(self.value) or "%" in self.value:
            hint = "an export belongs to no request, and control characters end a header"
            yield Problem("value", "the value of a header is one line of text without '%'", hint)


@model
class HttpExport(Located):
    """OTLP over HTTP."""

    path: str
    timeout: timedelta = timedelta(seconds=10)
    headers: tuple[ExportHeader, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if not re.fullmatch(r"/[^?#\s]*", self.path):
            yield Problem("path", f"{self.path!r} is no path", "as in /v1/traces")
        yield from _time_problems(self.timeout)


@model
class GrpcExport(Located):
    """OTLP over gRPC."""

    timeout: timedelta = timedelta(seconds=10)
    initial_metadata: tuple[ExportHeader, ...] = ()

    def problems(self) -> Iterator[Problem]:
        yield from _time_problems(self.timeout)


@model
class OpenTelemetry(ServiceProvider):
    """A collector of traces; over gRPC unless ``http`` is there."""

    REFUSED: ClassVar = {
        "resourceDetectors": "proxies tell their service, namespace and revision as tags; remove it",
        "dynatraceSampler": "set randomSamplingPercentage in a Telemetry",
    }

    #: Octets of a path that are told; 0: 256.
    max_tag_length: Annotated[int, Range(0, 65536)] = 0
    http: HttpExport | None = None
    grpc: GrpcExport | None = None

    @property
    def is_grpc(self) -> bool:
        return self.http is None

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if len(self.present("http", "grpc")) > 1:
            yield Problem("grpc", "'http' and 'grpc' exclude each other", "keep one of them")


@model
class LogFormat(Located):
    """What a line says: text, or an object with these labels."""

    text: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        if len(self.present("text", "labels")) > 1:
            yield Problem("labels", "'text' and 'labels' exclude each other", "keep one of them")
        yield from _format_problems(self.text, self.labels)


@model
class FileAccessLog(Located):
    """A file of each proxy; ``/dev/stdout`` and ``/dev/stderr`` are its outputs."""

    REFUSED: ClassVar = {"omitEmptyValues": "a value that is not there is '-' in text and null in JSON; remove it"}

    path: str
    #: Istio's own text without one.
    log_format: LogFormat | None = None

    def problems(self) -> Iterator[Problem]:
        if not self.path.startswith("/") or CONTROL.search(self.path):
            yield Problem("path", f"{self.path!r} is no path of a file", "as in /dev/stdout")


@model
class RecordFormat(Located):
    """What a record says: its body, and its attributes."""

    #: Istio's own text without one.
    text: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        yield from _format_problems(self.text, self.labels)


@model
class OtelAccessLog(ServiceProvider):
    """A collector that takes the access log as OTLP's records, over gRPC."""

    REFUSED: ClassVar = {"filterStateObjectsToLog": "filters keep no state to log; remove it"}

    log_name: str = ""
    log_format: RecordFormat | None = None

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if CONTROL.search(self.log_name):
            yield Problem("logName", "a name is one line of text")


@model
class Prometheus(Located):
    """Istio's metrics, which every proxy serves on ``/stats/prometheus``."""


def _format_problems(text: str, labels: Mapping[str, Any]) -> Iterator[Problem]:
    if text:
        yield from log_problems("text", text)
    for name, value in labels.items():
        if not isinstance(value, str):
            hint = "write a text with commands of Envoy's, as in '%RESPONSE_CODE%'"
            yield Problem("labels", f"{name}: {type(value).__name__} is no text", hint)
        else:
            yield from log_problems("labels", value, f"{name}: ")


def _time_problems(timeout: timedelta) -> Iterator[Problem]:
    if timeout < timedelta(milliseconds=1):
        yield Problem("timeout", "'timeout' leaves no time", "give it a millisecond at least, or remove it")
