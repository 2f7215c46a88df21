"""The short way through HTTP/2 leads where h2 leads: the same octets to a server with it and to one without."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import h2.config
import pytest
from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler, H2Protocol
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from pymesh.control.xds.grpc import Limits, _Connection

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/a/B"), (":authority", "a")]


class Calls(AbstractHandler):
    def __init__(self) -> None:
        self.streams: dict[int, Any] = {}

    def accept(self, stream: Any, headers: Any, release_stream: Any) -> None:
        self.streams[stream.id] = stream

    def cancel(self, stream: Any) -> None: ...

    def close(self) -> None: ...


class Transport:
    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def write(self, octets: bytes) -> None:
        if not self.closed:
            self.written += octets

    def close(self) -> None:
        self.closed = True


class Server:
    """With the short way, or without."""

    def __init__(self, is_short: bool) -> None:
        self.calls, self.transport = Calls(), Transport()
        config = Configuration(http2_connection_window_size=100_000, http2_stream_window_size=65_535)
        plain = H2Protocol(
            self.calls,
            config.__for_server__(),  # type: ignore[attr-defined]
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8"),
        )
        self.connection = _Connection(plain, set(), Limits())
        self.connection.connection_made(self.transport)
        self.h2 = self.connection.connection._connection
        self.take: Callable[[bytes], None] = self.connection.data_received
        if not is_short:
            self.take = lambda octets: None if self.transport.closed else self.connection._others(octets) and None

    def state(self) -> object:
        """Everything that both know of the connection."""
        windows = {
            number: (one.outbound_flow_control_window, one.inbound_flow_control_window, one.closed)
            for number, one in self.h2.streams.items()
        }
        both = self.h2.outbound_flow_control_window, self.h2.inbound_flow_control_window
        return self.transport.closed, both, windows

    def heard(self) -> list[tuple[int, bytes, int]]:
        """What was said to each call, and how much of a window that was."""
        found = self.calls.streams.items()
        return [(number, bytes(one.buffer._octets), one.buffer._unread) for number, one in found]

    def told(self) -> Counter[str]:
        """What the client was sent."""
        return Counter(frames(self.transport.written))


def frames(octets: bytes) -> list[str]:
    found = []
    while octets:
        frame, length = Frame.parse_frame_header(memoryview(octets[:9]))
        frame.parse_body(memoryview(octets[9 : 9 + length]))
        found.append(f"{type(frame).__name__} {frame.stream_id} {sorted(frame.flags)} {octets[9 : 9 + length].hex()}")
        octets = octets[9 + length :]
    return found


def usual(rng: random.Random, opened: list[int]) -> bytes:
    """What clients send."""
    number = rng.choice(opened)
    kind = rng.randrange(8)
    if kind < 3:
        return DataFrame(number, rng.randbytes(rng.randrange(0, 300))).serialize()
    if kind == 3:
        return PingFrame(0, opaque_data=rng.randbytes(8), flags=["ACK"] if rng.random() < 0.2 else []).serialize()
    if kind < 6:
        return WindowUpdateFrame(rng.choice([0, number]), window_increment=rng.randrange(1, 1 << 16)).serialize()
    if kind == 6:
        return DataFrame(number, b"padded", pad_length=rng.randrange(1, 20), flags=["PADDED"]).serialize()
    return SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: rng.randrange(1, 1 << 17)}).serialize()


def unusual(rng: random.Random, opened: list[int]) -> bytes:
    """What ends streams, or is wrong."""
    number = rng.choice(opened)
    block = Encoder().encode(REQUEST)
    return rng.choice(
        [
            lambda: DataFrame(number, b"last", flags=["END_STREAM"]).serialize(),
            lambda: RstStreamFrame(number, error_code=8).serialize(),
            lambda: DataFrame(number, bytes(16_000)).serialize() * 5,  # more than the window
            lambda: DataFrame(99, b"nobody's").serialize(),
            lambda: WindowUpdateFrame(number, window_increment=2**31 - 1).serialize(),
            lambda: WindowUpdateFrame(0, window_increment=2**31 - 1).serialize(),
            lambda: b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0",  # a window that opens by nothing
            lambda: b"\0\0\x03\x08\0\0\0\0\0\0\0\1",
            lambda: b"\0\0\x07\x06\0\0\0\0\0seven..",
            lambda: b"\0\0\x08\x06\0\0\0\0\1ofstream",
            lambda: b"\0\x50\0\0\0" + number.to_bytes(4, "big") + bytes(30),  # longer than any frame may be
            lambda: HeadersFrame(199, block[:4]).serialize() + PingFrame(0, opaque_data=b"between.").serialize(),
            lambda: (
                HeadersFrame(199, block[:4]).serialize()
                + ContinuationFrame(199, block[4:], flags=["END_HEADERS"]).serialize()
                + DataFrame(199, b"after all of its headers").serialize()
            ),
        ]
    )()


@pytest.mark.parametrize("seed", range(60))
def test_the_short_way_leads_where_h2_leads(seed: int) -> None:
    rng = random.Random(seed)
    encoder, opened = Encoder(), [1, 3, 5]
    octets = PREFACE + SettingsFrame(0).serialize()
    for number in opened:
        octets += HeadersFrame(number, encoder.encode(REQUEST), flags=["END_HEADERS"]).serialize()
    for _ in range(60):
        octets += usual(rng, opened)
    octets += unusual(rng, opened)
    for _ in range(10):
        octets += usual(rng, opened)

    async def main() -> None:
        short, plain = Server(True), Server(False)
        left = octets
        while left:
            size = rng.choice([1, 5, 9, 50, 400])
            piece, left = left[:size], left[size:]
            short.take(piece)
            plain.take(piece)
        assert short.state() == plain.state()
        if not plain.transport.closed:
            assert (short.heard(), short.told()) == (plain.heard(), plain.told())
            return
        # Of octets that come together with wrong ones h2 alone tells nobody, and answers nothing.
        assert short.told() >= plain.told()
        for mine, theirs in zip(short.heard(), plain.heard(), strict=True):
            assert mine[0] == theirs[0]
            assert mine[1].startswith(theirs[1])

    asyncio.run(main())


def test_the_short_way_is_taken() -> None:
    """Else nothing above would tell."""
    octets = PREFACE + SettingsFrame(0).serialize()
    octets += HeadersFrame(1, Encoder().encode(REQUEST), flags=["END_HEADERS"]).serialize()

    async def main() -> None:
        server = Server(True)
        server.take(octets)
        server.h2.receive_data = None  # type: ignore[method-assign, assignment]
        for one in (DataFrame(1, b"data"), PingFrame(0, opaque_data=b"12345678"), WindowUpdateFrame(1, 5)):
            server.take(one.serialize())
        assert bytes(server.calls.streams[1].buffer._octets) == b"data"

    asyncio.run(main())
