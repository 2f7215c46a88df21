"""A real OpenTelemetry Collector, and the spans that it has written (OTLP's JSON, a batch a line)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.proxy.bootstrap import Json
from tests.tools.peers import peer
from tests.tools.ports import free_port
from tests.tools.processes import Running, running

OPEN_TELEMETRY = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig"


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


_KINDS = {2: "SERVER", 3: "CLIENT"}


@dataclass
class Collector:
    """One that runs, or has run: its ports stay the same, and so does what it wrote."""

    http: int
    grpc: int
    file: Path
    process: Running | None = None
    _read: list[Any] = field(default_factory=list)

    def spans(self, trace: str = "") -> list[Span]:
        """Every span so far, in the order in which they began; of one trace if it is named."""
        text = self.file.read_text() if self.file.exists() else ""
        batches = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        found = [span for batch in batches for span in _spans(batch)]
        return sorted((one for one in found if trace in ("", one.trace)), key=lambda one: (one.began, one.kind))

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


def _attributes(pairs: Sequence[Any]) -> dict[str, str]:
    return {pair["key"]: str(next(iter(pair["value"].values()), "")) for pair in pairs}


def not_started(folder: Path) -> Collector:
    """Its ports and its file; nobody listens."""
    return Collector(free_port(), free_port(), folder / "spans.jsonl")


@contextmanager
def collecting(collector: Collector, *, path: str = "", delay: str = "0s") -> Iterator[Collector]:
    """Run it. `path` is written to instead of its file; `delay` is the time that it takes for each batch."""
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
        "exporters": {"lines": {"path": path or str(collector.file), "delay": delay}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["lines"]}},
        },
    }
    file = collector.file.with_name("collector.yaml")
    file.write_text(yaml.safe_dump(config))
    argv = [peer("otel-collector"), "--config", f"file:{file}"]
    with running(argv, title="otel-collector", ports=[collector.grpc, collector.http], timeout=60) as process:
        collector.process = process
        yield collector
    collector.process = None
