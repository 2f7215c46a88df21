"""Ours and Envoy agree on what becomes of an HTTP/1 connection.

The octets are written as they stand, with a good request behind them. Whether that one is answered says whether the
proxy kept the connection, and took the end of the first request for where it is.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.proxy.bootstrap import bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, proxy
from tests.tools.ports import free_ports
from tests.tools.wire.origin import origin

_HOST = b"Host: shop.test\r\n"
_BEHIND = b"GET /behind HTTP/1.1\r\n" + _HOST + b"Connection: close\r\n\r\n"


def _ask(line: bytes, *fields: bytes, host: bytes = _HOST, body: bytes = b"") -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


ASKED = {
    "kept": _ask(b"GET / HTTP/1.1"),
    "closed by the client": _ask(b"GET / HTTP/1.1", b"Connection: close"),
    "closed among other options": _ask(b"GET / HTTP/1.1", b"Connection: x-a, Close", b"X-A: 1"),
    "closed by an old client": _ask(b"GET / HTTP/1.1", b"Proxy-Connection: close"),
    "empty line before": b"\r\n" + _ask(b"GET / HTTP/1.1"),
    "head": _ask(b"HEAD / HTTP/1.1"),
    "body": _ask(b"POST / HTTP/1.1", b"Content-Length: 5", body=b"hello"),
    "chunks": _ask(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    "echoed chunks": _ask(
        b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"X-Want-Echo: 1", body=b"5\r\nhello\r\n0\r\n\r\n"
    ),
    "expectation": _ask(b"POST / HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
    "no content": _ask(b"GET / HTTP/1.1", b"X-Want-Status: 204"),
    "not modified": _ask(b"GET / HTTP/1.1", b"X-Want-Status: 304"),
    "local answer": _ask(b"GET /none HTTP/1.1"),
    "local answer to HEAD": _ask(b"HEAD /text HTTP/1.1"),
    "target without a path": _ask(b"GET http://shop.test HTTP/1.1"),
    "target with a fragment": _ask(b"GET /#a HTTP/1.1"),
    "space in the target": _ask(b"GET /a b HTTP/1.1"),
    "no host": _ask(b"GET / HTTP/1.1", host=b""),
    "tunnel": _ask(b"CONNECT shop.test:80 HTTP/1.1", host=b"Host: shop.test:80\r\n"),
    "tunnel with something in it": _ask(
        b"CONNECT shop.test:80 HTTP/1.1", host=b"Host: shop.test:80\r\n", body=b"hello"
    ),
    "other protocol": _ask(b"GET / HTTP/1.1", b"Connection: upgrade", b"Upgrade: websocket"),
    "other protocol with a body": _ask(
        b"POST / HTTP/1.1", b"Connection: upgrade", b"Upgrade: x", b"Content-Length: 5", body=b"hello"
    ),
    "HTTP/2 by upgrade": _ask(
        b"GET / HTTP/1.1", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"
    ),
    "HTTP/1.0": _ask(b"GET / HTTP/1.0"),
    "HTTP/1.0, kept": _ask(b"GET / HTTP/1.0", b"Connection: keep-alive"),
    "HTTP/1.0 without a host": _ask(b"GET / HTTP/1.0", host=b""),
    "HTTP/1.0, a body of unknown length": _ask(b"POST / HTTP/1.0", b"X-Want-Echo: 1", b"Content-Length: 2", body=b"ab"),
}


@pytest.fixture(scope="module")
def pair() -> Iterator[dict[str, Proxy]]:
    with ExitStack() as stack:
        behind = stack.enter_context(origin())
        text = {"match": {"path": "/text"}, "direct_response": {"status": 200, "body": {"inline_string": "text"}}}
        none = {"match": {"path": "/none"}, "direct_response": {"status": 404}}
        hosts = [virtual_host("shop", [text, none, to_cluster("origin")], ["shop.test"])]
        proxies = {}
        for kind in ("envoy", "pymesh"):
            modern, old, admin = free_ports(3)
            listeners = [
                http_listener(modern, hosts, name="modern"),
                http_listener(old, hosts, name="old", http_protocol_options={"accept_http_10": True}),
            ]
            config = bootstrap(listeners, [cluster("origin", [behind.port])], admin)
            proxies[kind] = stack.enter_context(proxy(kind, config))
        yield proxies


@pytest.mark.parametrize("listener", [0, 1], ids=["modern", "old"])
@pytest.mark.parametrize("octets", ASKED.values(), ids=ASKED.keys())
def test_same_answers(octets: bytes, listener: int, pair: dict[str, Proxy]) -> None:
    ours, envoys = (_answers(pair[kind].ports[listener], octets + _BEHIND) for kind in ("pymesh", "envoy"))
    assert ours == envoys


def _answers(port: int, octets: bytes) -> list[tuple[str, list[str]]]:
    """The status of every answer before the proxy closes, with the fields that frame it and speak of the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(octets)
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass  # closing with unread input sends RST, and that is a close too
    heads = re.findall(r"HTTP/1\.[01] (\d+) [^\r]*\r\n((?:[^\r]+\r\n)*)\r\n", received.decode("latin-1"))
    framing = re.compile(r"(?:connection|transfer-encoding|upgrade): .*|content-length(?=: )")
    # Whether a client is told to continue that did not wait for it is up to the proxy.
    return [(status, sorted(framing.findall(head.replace("\r", "")))) for status, head in heads if status != "100"]
