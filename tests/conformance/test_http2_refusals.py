"""Malformed HTTP/2: each case ends its stream or its connection, and none of it reaches the origin.

Frames are written as they stand, with `hpack` and `hyperframe`, since the library `h2` refuses to make bad ones.
h2spec judges which error is told; here it counts that nothing is sent on and that the proxy lives.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import hpack
import pytest
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy
from tests.tools.ports import free_ports
from tests.tools.wire.origin import Origin, origin

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Fields = list[tuple[str, str]]
GOOD: Fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "example.com")]


def _with(*more: tuple[str, str], without: str = "") -> Fields:
    return [*(field for field in GOOD if field[0] != without), *more]


BAD_HEADS = {
    "no method": _with(without=":method"),
    "no path": _with(without=":path"),
    "no scheme": _with(without=":scheme"),
    "empty path": _with((":path", ""), without=":path"),
    "path without slash": _with((":path", "a/b"), without=":path"),
    "path with a space": _with((":path", "/a b"), without=":path"),
    "path with a line": _with((":path", "/ HTTP/1.1\r\nx: y"), without=":path"),
    "method with a space": _with((":method", "GET /smuggled"), without=":method"),
    "two paths": _with((":path", "/other")),
    "two methods": _with((":method", "POST")),
    "unknown pseudo-header": _with((":protocol-x", "a")),
    "pseudo-header of a response": _with((":status", "200")),
    "pseudo-header after a field": [("x-a", "b"), *GOOD],
    "name in upper case": _with(("X-A", "b")),
    "empty name": _with(("", "b")),
    "name with a colon": _with(("x:a", "b")),
    "name with a space": _with(("x a", "b")),
    "name with a line": _with(("x-a\r\nx-b", "c")),
    "value with a line": _with(("x-a", "b\r\nx-c: d")),
    "value with a bare LF": _with(("x-a", "b\nc")),
    "value with NUL": _with(("x-a", "b\0c")),
    "value with a space before": _with(("x-a", " b")),
    "connection": _with(("connection", "close")),
    "transfer-encoding": _with(("transfer-encoding", "chunked")),
    "keep-alive": _with(("keep-alive", "timeout=5")),
    "upgrade": _with(("upgrade", "websocket")),
    "te other than trailers": _with(("te", "gzip")),
    "host unlike authority": _with(("host", "other.example")),
    "authority with user": _with((":authority", "user@example.com"), without=":authority"),
    "length not a number": _with(("content-length", "x")),
    "two lengths": _with(("content-length", "0"), ("content-length", "1")),
    "length of a body that is not there": _with(("content-length", "5")),
    "more fields than the limit": _with(*((f"x-{number}", "a") for number in range(200))),
    "head beyond the limit": _with(*((f"x-{number}", "a" * 8000) for number in range(10))),
}


@pytest.fixture(scope="module")
def target(run_proxy: Callable[[Json], AbstractContextManager[Proxy]]) -> Iterator[tuple[Proxy, Origin]]:
    """One proxy and one HTTP/1.1 origin for the whole table: what slips through would be split there."""
    port, admin_port = free_ports(2)
    with origin() as behind:
        hosts = [virtual_host("all", [to_cluster("origin")])]
        config = bootstrap([http_listener(port, hosts)], [cluster("origin", [behind.port])], admin_port)
        with run_proxy(config) as proxy:
            yield proxy, behind


@pytest.mark.parametrize("fields", BAD_HEADS.values(), ids=BAD_HEADS.keys())
def test_a_bad_head_is_refused_and_not_forwarded(fields: Fields, target: tuple[Proxy, Origin]) -> None:
    proxy, behind = target
    before = len(behind.requests)
    assert _outcome(proxy.port, [_head(fields)]) in ("reset", "goaway", "4")
    assert behind.requests[before:] == []
    assert proxy.process.alive(), proxy.process.tail()


@pytest.mark.parametrize("sent", [b"hello, world", b"hi"], ids=["longer", "shorter"])
def test_a_body_unlike_its_length_is_never_complete(sent: bytes, target: tuple[Proxy, Origin]) -> None:
    proxy, behind = target
    completed = behind.completed
    head = _head(_with((":method", "POST"), ("content-length", "5"), without=":method"), end=False)
    body = DataFrame(1, data=sent, flags=["END_STREAM"])
    assert _outcome(proxy.port, [head, body]) in ("reset", "goaway", "4")
    assert behind.completed == completed


def test_a_good_one_is_answered(target: tuple[Proxy, Origin]) -> None:
    """Or all of the above would prove nothing."""
    assert _outcome(target[0].port, [_head(GOOD)]) == "2"


def _head(fields: Fields, *, end: bool = True) -> Frame:
    block = hpack.Encoder().encode(fields)
    return HeadersFrame(1, data=block, flags=["END_HEADERS", *(["END_STREAM"] if end else [])])


def _outcome(port: int, frames: list[Frame]) -> str:
    """What became of stream 1: `reset`, `goaway` (or a close), or the first digit of its status."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        octets = b"".join(_split(frame) for frame in frames)
        connection.sendall(PREFACE + SettingsFrame(0).serialize() + octets)
        received, decoder = b"", hpack.Decoder()
        try:
            while piece := connection.recv(65536):
                received += piece
                while len(received) >= 9:
                    frame, length = Frame.parse_frame_header(memoryview(received[:9]))
                    if len(received) < 9 + length:
                        break
                    frame.parse_body(memoryview(received[9 : 9 + length]))
                    received = received[9 + length :]
                    if isinstance(frame, RstStreamFrame):
                        return "reset"
                    if isinstance(frame, GoAwayFrame):
                        return "goaway"
                    if isinstance(frame, HeadersFrame):
                        return str(dict(decoder.decode(frame.data))[":status"])[0]
        except ConnectionError:
            pass
        return "goaway"


def _split(frame: Frame) -> bytes:
    """The frame, as HEADERS and CONTINUATION where it is longer than a frame may be."""
    octets: bytes = frame.serialize()
    if not isinstance(frame, HeadersFrame) or len(frame.data) <= 16384:
        return octets
    first = HeadersFrame(frame.stream_id, data=frame.data[:16384], flags=[f for f in frame.flags if f != "END_HEADERS"])
    parts = [first.serialize()]
    for start in range(16384, len(frame.data), 16384):
        piece, last = frame.data[start : start + 16384], start + 16384 >= len(frame.data)
        parts.append(len(piece).to_bytes(3, "big") + bytes([9, 4 if last else 0]) + (1).to_bytes(4, "big") + piece)
    return b"".join(parts)
