"""gRPC-Web to a real gRPC server: ours and Envoy on the same bootstrap say the same, in both forms, octet for octet."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.proxy.bootstrap import GRPC_DEADLINES, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, proxy
from tests.tools.peers import peer
from tests.tools.ports import free_port, free_ports
from tests.tools.processes import running
from tests.tools.wire.client import Answer, fetch
from tests.tools.wire.message import Headers, Request

KINDS = ("pymesh", "envoy")
_GRPC_WEB = "type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
SERVICE = "/grpc.testing.TestService"


def message(octets: bytes) -> bytes:
    """A message in its frame."""
    return b"\0" + len(octets).to_bytes(4, "big") + octets


def field(number: int, value: int | bytes) -> bytes:
    """A protobuf field."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """A protobuf number."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


# `grpc.testing.SimpleRequest`: response_size, payload, response_status.
CALLS = {
    "empty": ("/EmptyCall", b""),
    "unary": ("/UnaryCall", field(2, 314_159) + field(3, field(2, bytes(271_828)))),
    "one octet": ("/UnaryCall", field(2, 1)),
    "a status": ("/UnaryCall", field(7, field(1, 2) + field(2, "test \N{LATIN SMALL LETTER E WITH ACUTE}%".encode()))),
    # `grpc.testing.StreamingOutputCallRequest`: response_parameters of size.
    "a stream": ("/StreamingOutputCall", b"".join(field(2, field(1, size)) for size in (31415, 9, 2653, 1, 0, 58979))),
    "no such method": ("/NoSuchCall", b""),
}
FORMS = {
    "binary": ("application/grpc-web+proto", "*/*"),
    "text": ("application/grpc-web-text+proto", "application/grpc-web-text+proto"),
    "text for a binary request": ("application/grpc-web", "application/grpc-web-text"),
    "plain": ("application/grpc-web", ""),
}


LIMITS = {"grpc_timeout_header_max": "10s", "grpc_timeout_header_offset": "9.5s"}


@pytest.fixture(scope="module")
def proxies() -> Iterator[dict[str, Proxy]]:
    with ExitStack() as stack:
        server = free_port()
        command = [peer("grpc-interop-server"), f"-port={server}"]
        stack.enter_context(running(command, title="grpc-interop-server", ports=[server]))
        filters = [
            {"name": "envoy.filters.http.grpc_web", "typed_config": {"@type": _GRPC_WEB}},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}},
        ]
        gone = {"match": {"prefix": "/gone"}, "direct_response": {"status": 503, "body": {"inline_string": "gone"}}}
        silent = {"match": {"prefix": "/silent"}, "direct_response": {"status": 503}}
        dead = to_cluster("dead", "/dead")
        # A server would end the call by the same deadline; this one takes the connection and never says a word.
        mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        slow = to_cluster("mute", "/slow", max_stream_duration=LIMITS)
        late = to_cluster("mute", "/late", timeout="0.3s")
        tried = to_cluster("mute", "/tried", retry_policy={"retry_on": "reset", "per_try_timeout": "0.3s"})
        own = to_cluster("mute", "/own", max_grpc_timeout="0s")
        started = {}
        for kind in KINDS:
            port, admin = free_ports(2)
            hosts = [virtual_host("all", [gone, silent, dead, slow, late, tried, own, to_cluster("server")])]
            listener = http_listener(port, hosts, http_filters=filters)
            clusters = [cluster("server", [server], http2=True), cluster("dead", [free_port()])]
            clusters.append(cluster("mute", [mute.getsockname()[1]], http2=True))
            config = bootstrap([listener], clusters, admin)
            if kind == "envoy":
                config["layered_runtime"] = GRPC_DEADLINES
            started[kind] = stack.enter_context(proxy(kind, config))
        yield started


@pytest.mark.parametrize("version", ["http1", "http2"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("call", CALLS)
def test_same_answers(call: str, form: str, version: str, proxies: dict[str, Proxy]) -> None:
    method, request = CALLS[call]
    content_type, accept = FORMS[form]
    body = message(request)
    if "text" in content_type:
        body = base64.b64encode(body)
    headers = [("content-type", content_type), *([("accept", accept)] if accept else []), ("x-grpc-web", "1")]
    answers = {kind: _ask(proxies[kind], SERVICE + method, headers, body, version) for kind in KINDS}
    assert _said(answers["pymesh"]) == _said(answers["envoy"])
    # Where there are no messages, the trailers are among the headers.
    assert (b"grpc-status:0" in _plain(answers["pymesh"])) == (call not in ("a status", "no such method"))


@pytest.mark.parametrize("text", ["AAAAA", "AAA*", "A"])
def test_what_is_not_base64_is_refused(text: str, proxies: dict[str, Proxy]) -> None:
    headers = [("content-type", "application/grpc-web-text"), ("accept", "application/grpc-web-text")]
    answers = {kind: _ask(proxies[kind], f"{SERVICE}/EmptyCall", headers, text.encode(), "http1") for kind in KINDS}
    assert answers["pymesh"].status == 400
    assert _said(answers["pymesh"]) == _said(answers["envoy"])
    assert answers["pymesh"].header("grpc-status") == "13"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["/gone", "/silent", "/dead"])
def test_an_answer_of_the_proxy_says_why_as_grpc_does(path: str, form: str, proxies: dict[str, Proxy]) -> None:
    content_type, accept = FORMS[form]
    headers = [("content-type", content_type), ("accept", accept)]
    answers = {kind: _ask(proxies[kind], path, headers, b"", "http1") for kind in KINDS}
    assert answers["pymesh"].status == 503
    assert _said(answers["pymesh"]) == _said(answers["envoy"])
    assert answers["pymesh"].header("grpc-status") == (None if path == "/silent" else "14")


def test_text_that_comes_in_pieces_is_answered_in_time(proxies: dict[str, Proxy]) -> None:
    """A message of a stream does not wait for the next one to fill a group of base64."""
    answers = {kind: _first_message(proxies[kind].port) for kind in KINDS}
    assert answers["pymesh"] == answers["envoy"]


def test_same_deadline(proxies: dict[str, Proxy]) -> None:
    """A call that lasts longer than its `grpc-timeout` is ended by the proxy."""
    headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "20S")]
    answers = {kind: _ask(proxies[kind], "/slow", headers, message(b""), "http2") for kind in KINDS}
    assert _said(answers["pymesh"]) == _said(answers["envoy"])
    assert answers["pymesh"].header("grpc-status") == "4"


@pytest.mark.parametrize("path", ["/late", "/tried", "/own"])
def test_who_waits_in_vain_is_told_of_the_deadline(path: str, proxies: dict[str, Proxy]) -> None:
    """Not that the service is unavailable: then a client would ask again."""
    headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "300m")]
    answers = {kind: _ask(proxies[kind], path, headers, message(b""), "http2") for kind in KINDS}
    assert _said(answers["pymesh"]) == _said(answers["envoy"])
    assert answers["pymesh"].header("grpc-status") == "4"


@pytest.mark.parametrize("form", FORMS)
def test_who_waits_in_vain_by_grpc_web(form: str, proxies: dict[str, Proxy]) -> None:
    content_type, accept = FORMS[form]
    headers = [("content-type", content_type), ("accept", accept)]
    answers = {kind: _ask(proxies[kind], "/late", headers, b"", "http1") for kind in KINDS}
    assert answers["pymesh"].status == 504
    assert _said(answers["pymesh"]) == _said(answers["envoy"])


def _ask(at: Proxy, path: str, headers: Headers, body: bytes, version: str) -> Answer:
    return fetch(at.port, Request("POST", path, "a.test", headers), body, use_http2=version == "http2")


def _said(answer: Answer) -> tuple[object, ...]:
    """What must be the same: the order of trailers within their frame, and what is said of the exchange, need not."""
    # Whether the answer came before the end of the request is up to the server.
    about = {"connection", "date", "x-envoy-upstream-service-time", "transfer-encoding", "content-length"}
    headers = sorted((name, value) for name, value in answer.headers if name not in about)
    plain = _plain(answer)
    messages, _, trailers = plain.partition(b"\x80\0\0")
    return answer.status, headers, messages, sorted(trailers[2:].split(b"\r\n")), sorted(answer.trailers)


def _plain(answer: Answer) -> bytes:
    if "grpc-web-text" not in (answer.header("content-type") or ""):
        return answer.body
    # Each frame is padded for itself.
    groups = [answer.body[at : at + 4] for at in range(0, len(answer.body), 4)]
    return b"".join(base64.b64decode(group) for group in groups)


def _first_message(port: int) -> bytes:
    """The first message of a stream whose second takes a long time, by HTTP/1.1 in text."""
    asked = field(2, field(1, 5)) + field(2, field(1, 5) + field(2, 20_000_000))
    body = base64.b64encode(message(asked))
    head = (
        f"POST {SERVICE}/StreamingOutputCall HTTP/1.1\r\nhost: a.test\r\ncontent-type: application/grpc-web-text\r\n"
        f"accept: application/grpc-web-text\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
        connection.sendall(head.encode() + body)
        received = b""
        while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < 6:
            received += connection.recv(65536)
        return received.partition(b"\r\n\r\n")[2]
