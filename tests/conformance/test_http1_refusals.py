"""Malformed HTTP/1.1 requests: each is answered 4xx (or nothing) and a close, and none of them reaches the origin.

The octets are written as they stand. After the bad request the same connection carries a good one: a proxy that took
the two for something else would answer it or send it on, so silence after the close is part of what is checked.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy
from tests.tools.ports import free_ports
from tests.tools.wire.origin import Origin, origin

_HOST = b"Host: example.com\r\n"
_GOOD = b"GET /smuggled HTTP/1.1\r\n" + _HOST + b"\r\n"


def _get(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return line + b"\r\n" + _HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def _post(*fields: bytes, body: bytes = b"") -> bytes:
    return _get(*fields, line=b"POST / HTTP/1.1") + body


BAD = {
    # Request line
    "no version": _get(line=b"GET /"),
    "unknown major version": _get(line=b"GET / HTTP/3.0"),
    "version in lower case": _get(line=b"GET / http/1.1"),
    "version with more digits": _get(line=b"GET / HTTP/1.10"),
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n",
    "control character in method": _get(line=b"G\x01T / HTTP/1.1"),
    "separator in method": _get(line=b"GE(T / HTTP/1.1"),
    "space in target": _get(line=b"GET /a b HTTP/1.1"),
    "control character in target": _get(line=b"GET /a\x01b HTTP/1.1"),
    "NUL in target": _get(line=b"GET /a\x00b HTTP/1.1"),
    "carriage return in target": _get(line=b"GET /a\rb HTTP/1.1"),
    "relative target": _get(line=b"GET a/b HTTP/1.1"),
    "leading space": _get(line=b" GET / HTTP/1.1"),
    # Host
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two different Hosts": _get(b"Host: other.example"),
    # Header fields
    "space before colon": _get(b"X-A : b"),
    "empty name": _get(b": b"),
    "no colon": _get(b"nonsense"),
    "obsolete folding": _get(b"X-A: b\r\n c"),
    "folding of the first field": b"GET / HTTP/1.1\r\n " + _HOST + b"\r\n",
    "NUL in value": _get(b"X-A: b\x00c"),
    "bare CR in value": _get(b"X-A: b\rc"),
    "control character in name": _get(b"X\x01A: b"),
    "separator in name": _get(b"X(A): b"),
    # Length
    "length and chunked": _post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunked and length": _post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    "two different lengths": _post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"),
    "list of different lengths": _post(b"Content-Length: 5, 6", body=b"hello!"),
    "negative length": _post(b"Content-Length: -1"),
    "length with a sign": _post(b"Content-Length: +5", body=b"hello"),
    "length in hexadecimal": _post(b"Content-Length: 0x5", body=b"hello"),
    "empty length": _post(b"Content-Length:"),
    "length with an inner space": _post(b"Content-Length: 1 0", body=b"0123456789"),
    "length beyond 64 bits": _post(b"Content-Length: 99999999999999999999"),
    # Transfer coding
    "unknown coding": _post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked not last": _post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "chunked twice": _post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "identity after chunked": _post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    "quoted coding": _post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "vertical tab before coding": _post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "coding in HTTP/1.0": b"POST / HTTP/1.0\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    # Too much
    "head beyond the limit": _get(b"X-Long: " + b"a" * 70_000),
    "more fields than the limit": _get(*(b"X-%d: a" % number for number in range(200))),
}

# Malformed after a head that was in order: the origin may have seen the head, but never a complete request.
BAD_BODIES = {
    "chunk size not hexadecimal": b"zz\r\nhello\r\n0\r\n\r\n",
    "chunk size with a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "negative chunk size": b"-5\r\nhello\r\n0\r\n\r\n",
    "empty chunk size": b"\r\nhello\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": b"3\r\nhello\r\n0\r\n\r\n",
    "bare LF after chunk": b"5\r\nhello\n0\r\n\r\n",
    "bare CR after chunk size": b"5\rhello\r\n0\r\n\r\n",
    "control character in chunk extension": b"5;a=\x01\r\nhello\r\n0\r\n\r\n",
}


@pytest.fixture(scope="module")
def target(run_proxy: Callable[[Json], AbstractContextManager[Proxy]]) -> Iterator[tuple[Proxy, Origin]]:
    """One proxy and one origin for the whole table: surviving all of it is part of the test."""
    port, admin_port = free_ports(2)
    with origin() as behind:
        hosts = [virtual_host("all", [to_cluster("origin")])]
        config = bootstrap([http_listener(port, hosts)], [cluster("origin", [behind.port])], admin_port)
        with run_proxy(config) as proxy:
            yield proxy, behind


@pytest.mark.parametrize("octets", BAD.values(), ids=BAD.keys())
def test_is_refused_and_not_forwarded(octets: bytes, target: tuple[Proxy, Origin]) -> None:
    proxy, behind = target
    before = len(behind.requests)
    answer = _send(proxy.port, octets + _GOOD)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4", b"HTTP/1.1 505", b"HTTP/1.1 501")) or not answer, answer
    assert answer.count(b"HTTP/1.") <= 1, answer
    assert behind.requests[before:] == []
    assert proxy.process.alive(), proxy.process.tail()


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_body_is_refused_and_never_complete(body: bytes, target: tuple[Proxy, Origin]) -> None:
    proxy, behind = target
    before, completed = len(behind.requests), behind.completed
    answer = _send(proxy.port, _post(b"Transfer-Encoding: chunked", body=body) + _GOOD)
    assert answer.startswith(b"HTTP/1.1 400") or not answer, answer
    assert answer.count(b"HTTP/1.") <= 1, answer
    assert "/smuggled" not in [request.target for request in behind.requests[before:]]
    assert behind.completed == completed
    assert proxy.process.alive(), proxy.process.tail()


def _send(port: int, octets: bytes) -> bytes:
    """Everything the proxy says until it closes; a proxy that keeps the connection open fails the test."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.sendall(octets)
            while piece := connection.recv(65536):
                received += piece
        except ConnectionError:
            pass  # closing with unread input sends RST, and that is a close too
    return received
