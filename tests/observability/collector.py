"""A real OpenTelemetry Collector, and the spans and log records that it has written (OTLP's JSON, a batch a line)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.proxy.bootstrap import Json
from tests.tools.peers import peer
from tests.tools.ports import free_port
from tests.tools.processes import Running, running

OPEN_TELEMETRY = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig"
OPEN_TELEMETRY_LOG = (
    "type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig"
)


@dataclass(frozen=True)
class Span:
    """What is looked at here."""

    trace: str
    id: str
    parent: str
    #: Of the resource: `service.name`.
    service: str
    name: str
    #: `SERVER`, `CLIENT`.
    kind: str
    began: int
    ended: int
    attributes: dict[str, str]

    def __str__(self) -> str:
        return f"{self.service} {self.kind} {self.name} {self.attributes.get('http.status_code', '')}"


@dataclass(frozen=True)
class Record:
    """A record of an access log."""

    resource: dict[str, str]
    at: int
    body: str
    attributes: dict[str, str]
    trace: str
    span: str


#: OpenTelemetry's, each with a pipeline and a file of its own.
SIGNALS = ("traces", "logs")
_KINDS = {2: "SERVER", 3: "CLIENT"}


@dataclass
class Collector:
    """One that runs, or has run: its ports stay the same, and so does what it wrote."""

    http: int
    grpc: int
    file: Path
    process: Running | None = None

    def spans(self, trace: str = "") -> list[Span]:
        """Every span so far, in the order in which they began; of one trace if it is named."""
        found = [span for batch in self._batches("traces") for span in _spans(batch)]
        return sorted((one for one in found if trace in ("", one.trace)), key=lambda one: (one.began, one.kind))

    def records(self) -> list[Record]:
        """Every log record so far, in the order in which they came."""
        return [record for batch in self._batches("logs") for record in _records(batch)]

    def _batches(self, signal: str) -> list[Any]:
        file = self.file.with_suffix(f".{signal}")
        text = file.read_text(errors="replace") if file.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def log(self, **config: Any) -> Json:
        """An access log that it is told, over gRPC; `config` is the logger's."""
        service = {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "1s"}
        common = {"log_name": "a log", "grpc_service": service, "transport_api_version": "V3"}
        made = {"@type": OPEN_TELEMETRY_LOG, "common_config": common, **config}
        return {"name": "envoy.access_loggers.open_telemetry", "typed_config": made}

    def provider(self, protocol: str, service: str) -> Json:
        """What a proxy's connection manager is told (`tracing.provider`)."""
        config: Json = {"@type": OPEN_TELEMETRY, "service_name": service}
        if protocol == "grpc":
            config["grpc_service"] = {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "1s"}
        else:
            uri = f"http://127.0.0.1:{self.http}/v1/traces"
            config["http_service"] = {"http_uri": {"uri": uri, "cluster": "collector", "timeout": "1s"}}
        return {"name": "envoy.tracers.opentelemetry", "typed_config": config}

    def port(self, protocol: str) -> int:
        return self.grpc if protocol == "grpc" else self.http


def _spans(batch: Any) -> Iterator[Span]:
    for resource in batch["resourceSpans"]:
        service = _attributes(resource["resource"].get("attributes", ())).get("service.name", "")
        for scope in resource["scopeSpans"]:
            for one in scope["spans"]:
                yield Span(
                    one["traceId"],
                    one["spanId"],
                    one.get("parentSpanId", ""),
                    service,
                    one["name"],
                    _KINDS.get(one.get("kind", 0), "?"),
                    int(one["startTimeUnixNano"]),
                    int(one["endTimeUnixNano"]),
                    _attributes(one.get("attributes", ())),
                )


def _records(batch: Any) -> Iterator[Record]:
    for of_resource in batch["resourceLogs"]:
        resource = _attributes(of_resource["resource"].get("attributes", ()))
        for scope in of_resource["scopeLogs"]:
            for one in scope["logRecords"]:
                yield Record(
                    resource,
                    int(one["timeUnixNano"]),
                    str(next(iter(one.get("body", {}).values()), "")),
                    _attributes(one.get("attributes", ())),
                    one.get("traceId", ""),
                    one.get("spanId", ""),
                )


def _attributes(pairs: Sequence[Any]) -> dict[str, str]:
    return {pair["key"]: str(next(iter(pair["value"].values()), "")) for pair in pairs}


def not_started(folder: Path) -> Collector:
    """Its ports and where its files are; nobody listens."""
    return Collector(free_port(), free_port(), folder / "told")


@contextmanager
def collecting(collector: Collector, *, path: str = "", delay: str = "0s") -> Iterator[Collector]:
    """Run it. `path` is written to instead of its files; `delay` is the time that it takes for each batch."""
    address = "127.0.0.1:{}".format
    config = {
        "receivers": {
            "otlp": {
                "protocols": {
                    "grpc": {"endpoint": address(collector.grpc)},
                    "http": {"endpoint": address(collector.http)},
                }
            }
        },
        "exporters": {
            f"lines/{signal}": {"path": path or str(collector.file.with_suffix(f".{signal}")), "delay": delay}
            for signal in SIGNALS
        },
        "service": {
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
            "pipelines": {signal: {"receivers": ["otlp"], "exporters": [f"lines/{signal}"]} for signal in SIGNALS},
        },
    }
    file = collector.file.with_name("collector.yaml")
    file.write_text(yaml.safe_dump(config))
    argv = [peer("otel-collector"), "--config", f"file:{file}"]
    with running(argv, title="otel-collector", ports=[collector.grpc, collector.http], timeout=60) as process:
        collector.process = process
        yield collector
    collector.process = None
