"""Ours and Envoy on the same bootstrap tell the same of requests: to the next one, and to an OpenTelemetry collector.

Each case is a request with a trace of its own. Compared are the spans that a collector of OTLP over HTTP receives of it
(name, kind, who is whose parent, attributes, status) and the headers that the origin has seen. What each proxy says of
itself (its SDK, its node) is its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, http_listener, virtual_host
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools.ports import free_port
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Aborted, Headers, Request
from tests.tools.wire.origin import Origin, origin

KINDS = ("envoy", "pymesh")
PARENT = "00f067aa0ba902b7"
OPEN_TELEMETRY = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig"
#: What differs from run to run, or says which proxy it is.
OWN = {"guid:x-request-id", "upstream_address", "peer.address", "node_id", "zone"}


@dataclass(frozen=True, eq=False)
class Case:
    """One request; `flag` is whether its trace is kept, `wants` what the origin is asked to do."""

    path: str
    flag: str = "01"
    wants: tuple[str, ...] = ()
    headers: Headers = field(default_factory=list)
    method: str = "GET"
    body: bytes = b""

    def __str__(self) -> str:
        return " ".join([self.method, self.path, self.flag, *self.wants, *(f"{n}={v}" for n, v in self.headers)])


GRPC: Headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "5S")]
CASES = [
    Case("/plain"),
    Case("/plain?query=1", headers=[("user-agent", "curl/8"), ("x-user", "ann"), ("tracestate", "a=1,b=2")]),
    Case("/plain", flag="00"),
    Case("/plain", method="POST", body=b"hello"),
    Case("/" + "long" * 100),
    Case("/plain", wants=("status=404",)),
    Case("/plain", wants=("status=500",)),
    Case("/retried", wants=("status=503|200",)),
    Case("/retried", wants=("status=503|503|503",)),
    Case("/retried", wants=("reset=before|",)),
    Case("/plain", wants=("reset=before",)),
    Case("/down"),
    Case("/direct"),
    Case("/redirect"),
    Case("/nowhere"),
    Case("/named"),
    Case("/tagged", headers=[("x-user", "bob")]),
    Case("/plain", headers=[("x-envoy-downstream-service-cluster", "front"), ("x-envoy-decorator-operation", "told")]),
    Case("/plain", headers=GRPC, wants=("header=grpc-status=0",)),
    Case("/plain", headers=GRPC, wants=("header=grpc-status=14",)),
]


@dataclass
class Collector:
    """What has been received, by trace."""

    spans: dict[str, list[Span]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, request: ExportTraceServiceRequest) -> None:
        with self.lock:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self.spans.setdefault(span.trace_id.hex(), []).append(span)

    def of(self, trace: str) -> list[Span]:
        """The spans of a trace, in the order in which they began."""
        with self.lock:
            return sorted(self.spans.get(trace, []), key=lambda span: (span.start_time_unix_nano, span.kind))


@contextmanager
def collecting() -> Iterator[tuple[int, Collector]]:
    """A collector of OTLP over HTTP."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            collector.take(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _body(self) -> bytes:
            if length := self.headers["content-length"]:
                return self.rfile.read(int(length))
            # Envoy does not say before how much it is.
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, collector
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Traced:
    """Both proxies in both directions, their collectors, and the origin."""

    proxies: dict[tuple[str, str], Proxy]
    collectors: dict[str, Collector]
    origin: Origin
    #: The access log of each proxy.
    logs: dict[tuple[str, str], Path]
    #: What the origin was told of each request.
    told: dict[tuple[str, str, Case], list[dict[str, str]]] = field(default_factory=dict)

    def ask(self, kind: str, direction: str, case: Case) -> None:
        """One request."""
        trace = _trace(direction, case)
        wants = [("x-want-" + want.split("=", 1)[0], want.split("=", 1)[1]) for want in case.wants]
        # Without a state Envoy sends an empty one, which the origin's answer would show.
        state = [] if any(name == "tracestate" for name, _ in case.headers) else [("tracestate", "a=1")]
        told = [("traceparent", f"00-{trace}-{PARENT}-{case.flag}"), ("x-case", trace), *state]
        started = self.proxies[kind, direction]
        self.origin.requests.clear()
        with suppress(Aborted):
            fetch(started.port, Request(case.method, case.path, "a.test", [*told, *case.headers, *wants]), case.body)
        assert eventually(lambda: not any(name.endswith("_rq_active") for name in started.active())), started.active()
        self.told[kind, direction, case] = [dict(request.headers) for request in self.origin.requests]

    def logged(self, kind: str, direction: str) -> list[list[str]]:
        """Trace and span of each request, as the access log tells them."""
        file = self.logs[kind, direction]
        assert eventually(lambda: file.exists() and len(file.read_text().splitlines()) >= len(CASES))
        return [line.split() for line in file.read_text().splitlines()[: len(CASES)]]

    def seen(self, kind: str, direction: str, case: Case) -> dict[str, Any]:
        """What was told of it. All requests have been made."""
        trace, collector = _trace(direction, case), self.collectors[kind]
        if case.flag == "01":
            is_whole = lambda: any(span.parent_span_id.hex() == PARENT for span in collector.of(trace))  # noqa: E731
            assert eventually(is_whole), f"{kind}: {[span.name for span in collector.of(trace)]}"
        else:
            # What came after it has been sent, so this would have been.
            last = _trace(direction, CASES[-1])
            assert eventually(lambda: bool(collector.of(last)))
        tells = ("tracestate", "x-envoy-decorator-operation")
        reached = self.told[kind, direction, case]
        parents = [headers["traceparent"].split("-") for headers in reached]
        assert {parent[1] for parent in parents} <= {trace}
        spans = collector.of(trace)
        asked_by = [next((span.name for span in spans if span.span_id.hex() == parent[2]), None) for parent in parents]
        return {
            "spans": [_shown(span, spans) for span in spans],
            "told": [{name: headers.get(name) for name in tells} for headers in reached],
            "flags": [parent[3] for parent in parents],
            "asked by": asked_by,
        }


def _trace(direction: str, case: Case) -> str:
    return f"{CASES.index(case) + 1:031x}{'1' if direction == 'INBOUND' else '2'}"


def _shown(span: Span, spans: list[Span]) -> dict[str, Any]:
    names = {other.span_id: other.name for other in spans}
    return {
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind),
        "parent": PARENT if span.parent_span_id.hex() == PARENT else names.get(span.parent_span_id, "?"),
        "attributes": {pair.key: pair.value.string_value for pair in span.attributes if pair.key not in OWN},
        "state": span.trace_state,
        "status": span.status.code,
        "lasts": span.end_time_unix_nano >= span.start_time_unix_nano,
    }


def _tracing(collector: int) -> Json:
    service = {"http_uri": {"uri": f"http://127.0.0.1:{collector}/v1/traces", "cluster": "collector", "timeout": "5s"}}
    config = {"@type": OPEN_TELEMETRY, "http_service": service, "service_name": "shop"}
    return {
        "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": config},
        "spawn_upstream_span": True,
        "custom_tags": [
            {"tag": "cell", "literal": {"value": "a"}},
            {"tag": "user", "request_header": {"name": "x-user", "default_value": "nobody"}},
            {"tag": "home", "environment": {"name": "PYMESH_NOT_SET", "default_value": "unset"}},
        ],
    }


def _routes() -> list[Json]:
    retry = {"retry_on": "5xx", "num_retries": 2, "retry_back_off": {"base_interval": "0.001s"}}
    tags = [{"tag": "cell", "literal": {"value": "b"}}, {"tag": "own", "literal": {"value": "1"}}]
    return [
        {"match": {"prefix": "/retried"}, "route": {"cluster": "a", "retry_policy": retry}},
        {"match": {"prefix": "/down"}, "route": {"cluster": "down"}},
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 204}},
        {"match": {"prefix": "/redirect"}, "redirect": {"path_redirect": "/"}},
        {"match": {"prefix": "/nowhere"}, "route": {"cluster": "unknown"}},
        {"match": {"prefix": "/named"}, "route": {"cluster": "a"}, "decorator": {"operation": "named"}},
        {
            "match": {"prefix": "/tagged"},
            "route": {"cluster": "a"},
            "tracing": {"custom_tags": tags},
            "decorator": {"operation": "tagged", "propagate": False},
        },
        {"match": {"prefix": "/"}, "route": {"cluster": "a"}},
    ]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        behind = stack.enter_context(origin("a"))
        proxies, collectors, logs, down = {}, {}, {}, free_port()
        for kind in KINDS:
            port, collectors[kind] = stack.enter_context(collecting())
            for direction in ("INBOUND", "OUTBOUND"):
                host = virtual_host("all", _routes())
                logs[kind, direction] = folder / f"{kind}-{direction}"
                log = access_log(logs[kind, direction], "%TRACE_ID% %SPAN_ID% %TRACE_ID%\n")
                manager: Json = {"tracing": _tracing(port), "access_log": [log]}
                listener = http_listener(free_port(), [host], **manager)
                listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["validate_clusters"] = False
                listener["traffic_direction"] = direction
                clusters = [cluster("a", [behind.port]), cluster("down", [down]), cluster("collector", [port])]
                made = bootstrap([listener], clusters, free_port())
                if kind == "envoy":
                    # Spans are sent at once, not by five.
                    values = {"tracing.opentelemetry.min_flush_spans": 1}
                    made["layered_runtime"] = {"layers": [{"name": "test", "static_layer": values}]}
                proxies[kind, direction] = stack.enter_context(proxy(kind, made))
        made_all = Traced(proxies, collectors, behind, logs)
        for kind, direction in proxies:
            for case in CASES:
                made_all.ask(kind, direction, case)
        yield made_all


@pytest.mark.parametrize("direction", ["INBOUND", "OUTBOUND"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_spans_are_the_same(traced: Traced, case: Case, direction: str) -> None:
    assert traced.seen("pymesh", direction, case) == traced.seen("envoy", direction, case)


@pytest.mark.parametrize("direction", ["INBOUND", "OUTBOUND"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_log_tells_the_trace_and_the_span_of_the_request(traced: Traced, kind: str, direction: str) -> None:
    for case, [trace, span, again] in zip(CASES, traced.logged(kind, direction), strict=True):
        assert trace == again == _trace(direction, case)
        if case.flag == "01":
            assert eventually(lambda trace=trace: bool(traced.collectors[kind].of(trace)))  # type: ignore[misc]
            of_request = [one for one in traced.collectors[kind].of(trace) if one.parent_span_id.hex() == PARENT]
            assert [one.span_id.hex() for one in of_request] == [span]
        else:
            assert len(bytes.fromhex(span)) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_without_a_trace_begins_one(traced: Traced, kind: str) -> None:
    traced.origin.requests.clear()
    fetch(traced.proxies[kind, "INBOUND"].port, Request("GET", "/plain", "a.test", []), b"")
    [reached] = traced.origin.requests
    _, trace, parent, flags = dict(reached.headers)["traceparent"].split("-")
    assert flags == "01"
    collector = traced.collectors[kind]
    assert eventually(lambda: len(collector.of(trace)) == 2)
    whole, attempt = sorted(collector.of(trace), key=lambda span: span.kind)
    assert (whole.parent_span_id, attempt.parent_span_id, attempt.span_id.hex()) == (b"", whole.span_id, parent)
