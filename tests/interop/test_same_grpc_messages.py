"""Messages of gRPC are counted as Envoy's `grpc_stats` counts them, of which Istio makes its metrics.

The same calls of gRPC's own interoperability client, and of clients that cut their messages up or break off, through
both; ours tells `istio_request_messages_total` and `istio_response_messages_total`, Envoy the counters of its cluster.
"""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools.peers import peer
from tests.tools.ports import free_port, free_ports
from tests.tools.processes import running
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Aborted, Headers, Request
from tests.tools.wire.origin import origin

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
#: What the client sends and gets: requests and responses.
CALLS = {
    "empty_unary": (1, 1),
    "large_unary": (1, 1),
    "client_streaming": (4, 1),
    "server_streaming": (1, 4),
    "ping_pong": (4, 4),
    "empty_stream": (0, 0),
    "status_code_and_message": (2, 0),
    "custom_metadata": (2, 2),
    "unimplemented_method": (1, 0),
}
GRPC: Headers = [("content-type", "application/grpc"), ("te", "trailers")]
ECHOED: Headers = [("x-want-echo", "1"), ("x-want-header", "content-type=application/grpc")]
ONE, EMPTY = b"\0\0\0\0\3abc", b"\0\0\0\0\0"
LARGE = b"\0\0\1\x86\xa0" + bytes(100_000)


@dataclass(frozen=True)
class Case:
    """A request that is written by hand."""

    body: bytes
    messages: tuple[int, int]
    headers: Headers = (*GRPC, *ECHOED)
    path: str = "/s/m"
    use_http2: bool = True


_TEXT: Headers = [("content-type", "application/grpc-web-text"), ("accept", "application/grpc-web-text")]
RAW = {
    "several in one piece": Case(ONE + EMPTY + LARGE + EMPTY, (4, 4)),
    "one that is not whole": Case(ONE + LARGE[:5000], (2, 2)),
    "a head that is not whole": Case(ONE + b"\0", (2, 2)),
    "none": Case(b"", (0, 0)),
    "over HTTP/1": Case(ONE + ONE, (2, 2), use_http2=False),
    "of another kind": Case(
        ONE, (0, 0), headers=[("x-want-echo", "1"), ("content-type", "application/json")], use_http2=False
    ),
    "no answer of gRPC": Case(ONE, (1, 0), headers=GRPC),
    "another status": Case(ONE, (1, 0), headers=[*GRPC, *ECHOED, ("x-want-status", "404")]),
    "a direct answer": Case(ONE, (0, 0), path="/direct/m"),
    "no route": Case(ONE, (0, 0), path="/none/m"),
    "gRPC-Web": Case(ONE + EMPTY, (2, 2), headers=[("content-type", "application/grpc-web"), *ECHOED], use_http2=False),
    # An answer without trailers, as the origin's echo, Envoy does not end in text.
    "gRPC-Web as text": Case(base64.b64encode(ONE + ONE), (2, 0), headers=_TEXT, use_http2=False),
}


def counted(started: Proxy) -> list[int]:
    """The messages of requests and of responses so far."""
    if started.kind == "envoy":
        stats = started.stats()
        ends = (f".grpc.{way}_message_count" for way in ("request", "response"))
        return [sum(count for name, count in stats.items() if name.endswith(end)) for end in ends]
    page = started.admin("/stats/prometheus")
    series = (rf"^istio_{way}_messages_total\{{.*}} (\d+)$" for way in ("request", "response"))
    return [sum(int(count) for count in re.findall(one, page, re.MULTILINE)) for one in series]


def _filters(kind: str) -> list[Json]:
    def one(name: str, config: str, **fields: object) -> Json:
        return {
            "name": f"envoy.filters.http.{name}",
            "typed_config": {"@type": f"{_HTTP}.{name}.v3.{config}", **fields},
        }

    # Where Istio puts it. Ours counts without being asked.
    stats = [one("grpc_stats", "FilterConfig", emit_filter_state=True)] if kind == "envoy" else []
    return [one("grpc_web", "GrpcWeb"), *stats, one("router", "Router")]


@pytest.fixture(scope="module")
def both() -> Iterator[list[Proxy]]:
    """Envoy and ours: calls go to the interoperability server, what is written by hand to an origin that echoes."""
    server = free_port()
    with ExitStack() as stack:
        stack.enter_context(running([peer("grpc-interop-server"), f"--port={server}"], ports=[server]))
        behind = stack.enter_context(origin("a", http2=True))
        proxies = []
        for kind in ("envoy", "pymesh"):
            calls, raw, admin = free_ports(3)
            to_server = [to_cluster("server", timeout="0s")]
            direct = {"match": {"prefix": "/direct"}, "direct_response": {"status": 418}}
            to_raw = [direct, to_cluster("raw", "/s/")]
            listeners = [
                http_listener(port, [virtual_host("all", routes)], name=name, http_filters=_filters(kind))
                for name, port, routes in (("calls", calls, to_server), ("raw", raw, to_raw))
            ]
            for listener in listeners:
                listener["traffic_direction"] = "OUTBOUND"
            ports = {"server": server, "raw": behind.port}
            clusters = [cluster(name, [port], http2=True) for name, port in ports.items()]
            proxies.append(stack.enter_context(proxy(kind, bootstrap(listeners, clusters, admin))))
        yield proxies


@pytest.mark.parametrize("call", CALLS)
def test_calls_of_the_interoperability_client(call: str, both: list[Proxy]) -> None:
    for started in both:
        before = counted(started)
        command = [peer("grpc-interop-client"), "--server_host=127.0.0.1", f"--server_port={started.port}"]
        done = subprocess.run([*command, f"--test_case={call}"], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        _are_counted(started, before, CALLS[call])


@pytest.mark.parametrize("name", RAW)
def test_requests_that_are_written_by_hand(name: str, both: list[Proxy]) -> None:
    case = RAW[name]
    for started in both:
        before = counted(started)
        request = Request("POST", case.path, "a.test", case.headers)
        with suppress(Aborted):
            fetch(started.ports[1], request, case.body, use_http2=case.use_http2)
        _are_counted(started, before, case.messages)


def _are_counted(started: Proxy, before: list[int], wanted: tuple[int, int]) -> None:
    def more() -> tuple[int, ...]:
        return tuple(now - then for now, then in zip(counted(started), before, strict=True))

    # A request is over a moment after its answer is.
    assert eventually(lambda: more() == wanted, 10), (started.kind, more(), wanted)
