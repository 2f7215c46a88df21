"""A request over three services, told to a real OpenTelemetry Collector: one trace, every hop, parent and child.

client -> gateway -> sidecar of `web` -> web -> sidecar of `web` -> sidecar of `reviews` -> ... -> sidecar of
`ratings` -> ratings, which refuses the first attempt of the sidecar of `reviews`. The services pass trace headers on,
as every service in a mesh has to.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.observability.collector import Collector, Span, collecting, not_started
from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import eventually, proxy
from tests.tools.ports import free_port
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import origin

PASSED_ON = ("traceparent", "tracestate", "x-request-id", "x-want-status")
RETRY = {"retry_on": "5xx", "num_retries": 2, "retry_back_off": {"base_interval": "0.001s"}}


@contextmanager
def service(port: int) -> Iterator[int]:
    """A service that asks another one, at `port`, and answers what that says."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", self.path, headers={**told, "host": "next.test"})
            answer = connection.getresponse()
            answer.read()
            connection.close()
            self.send_response(answer.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class Mesh:
    """A gateway and the sidecars of three services, each with a way in and a way out."""

    def __init__(self, stack: ExitStack, collector: Collector, protocol: str, kinds: dict[str, str]) -> None:
        self._stack, self._collector, self._protocol, self._kinds = stack, collector, protocol, kinds
        behind = stack.enter_context(origin("ratings"))
        names = ("web", "reviews", "ratings")
        ways_in = dict(zip(names, (free_port() for _ in names), strict=True))
        apps = {"ratings": behind.port}
        for name, following in (("reviews", "ratings"), ("web", "reviews")):
            way_out = free_port()
            apps[name] = stack.enter_context(service(way_out))
            self._sidecar(name, (ways_in[name], apps[name]), (way_out, ways_in[following]))
        self._sidecar("ratings", (ways_in["ratings"], apps["ratings"]), None)
        self.gateway = free_port()
        self._sidecar("gateway", None, (self.gateway, ways_in["web"]))

    def _sidecar(self, name: str, way_in: tuple[int, int] | None, way_out: tuple[int, int] | None) -> None:
        collector = self._collector
        tracing = {
            "provider": collector.provider(self._protocol, name),
            "spawn_upstream_span": True,
            "random_sampling": {"value": 100},
        }
        listeners: list[Json] = []
        clusters = [cluster("collector", [collector.port(self._protocol)], http2=self._protocol == "grpc")]
        for direction, way in (("INBOUND", way_in), ("OUTBOUND", way_out)):
            if way is None:
                continue
            label = direction.lower()
            action: Json = {"retry_policy": RETRY} if direction == "OUTBOUND" else {}
            told = {"include_request_attempt_count": True} if direction == "OUTBOUND" else {}
            host = virtual_host("all", [to_cluster(label, **action)], **told)
            listener = http_listener(way[0], [host], name=label, tracing=tracing)
            listener["traffic_direction"] = direction
            listeners.append(listener)
            clusters.append(cluster(label, [way[1]]))
        made = bootstrap(listeners, clusters, free_port())
        kind = self._kinds.get(name, "pymesh")
        if kind == "envoy":
            values = {"tracing.opentelemetry.min_flush_spans": 1}
            made["layered_runtime"] = {"layers": [{"name": "test", "static_layer": values}]}
        self._stack.enter_context(proxy(kind, made))


def _below(span: Span, spans: list[Span]) -> Any:
    """A span as (service, kind, status, what is below it)."""
    children = [_below(one, spans) for one in spans if one.parent == span.id]
    return (span.service, span.kind, span.attributes.get("http.status_code"), children)


def _drawn(span: Span, spans: list[Span], depth: int = 0) -> str:
    below = (_drawn(one, spans, depth + 1) for one in spans if one.parent == span.id)
    return f"\n{'  ' * depth}{span}" + "".join(below)


def _hop(service: str, status: str, below: list[Any]) -> Any:
    """A proxy's part: the request's span, and one for its only attempt."""
    return (service, "SERVER", status, [(service, "CLIENT", status, below)])


@pytest.mark.parametrize(
    ("protocol", "kinds"),
    [("grpc", {}), ("http", {}), ("grpc", {"reviews": "envoy"})],
    ids=["OTLP over gRPC", "OTLP over HTTP", "an Envoy in the middle"],
)
def test_one_trace_over_three_services_with_a_retry(protocol: str, kinds: dict[str, str], tmp_path: Path) -> None:
    with ExitStack() as stack:
        collector = stack.enter_context(collecting(not_started(tmp_path)))
        mesh = Mesh(stack, collector, protocol, kinds)
        answer = fetch(mesh.gateway, Request("GET", "/products/1", "web.test", [("x-want-status", "503|200")]), b"")
        assert answer.status == 200
        # gateway 2, web 4, reviews 5 (an attempt more), ratings 4 (asked twice).
        assert eventually(lambda: len(collector.spans()) >= 15, 30), [str(one) for one in collector.spans()]
        spans = collector.spans()
    assert len(spans) == 15
    assert len({one.trace for one in spans}) == 1
    assert len({one.id for one in spans}) == 15
    [root] = [one for one in spans if one.parent == ""]
    asked_twice = [
        ("reviews", "CLIENT", "503", [_hop("ratings", "503", [])]),
        ("reviews", "CLIENT", "200", [_hop("ratings", "200", [])]),
    ]
    of_reviews = _hop("reviews", "200", [("reviews", "SERVER", "200", asked_twice)])
    of_web = _hop("web", "200", [_hop("web", "200", [of_reviews])])
    assert _below(root, spans) == _hop("gateway", "200", [of_web]), _drawn(root, spans)
    # Time, too, is inside: a child neither begins before its parent, nor does a client's span end before its server's.
    by_id = {one.id: one for one in spans}
    for one in spans:
        if one.parent:
            parent = by_id[one.parent]
            assert parent.began <= one.began <= one.ended, (str(parent), str(one))


def test_what_is_not_sampled_is_told_to_nobody_and_the_rest_as_a_whole(tmp_path: Path) -> None:
    """Whoever begins a trace decides for all who follow."""
    with ExitStack() as stack:
        collector = stack.enter_context(collecting(not_started(tmp_path)))
        mesh = Mesh(stack, collector, "grpc", {})
        for number in range(10):
            flag = "01" if number % 2 else "00"
            headers = [("traceparent", f"00-{number + 1:032x}-00f067aa0ba902b7-{flag}")]
            assert fetch(mesh.gateway, Request("GET", "/", "web.test", headers), b"").status == 200
        assert eventually(lambda: len(collector.spans()) >= 5 * 12, 30), len(collector.spans())
        found = collector.spans()
    assert {one.trace for one in found} == {f"{number + 1:032x}" for number in range(1, 10, 2)}
    assert len(found) == 5 * 12
