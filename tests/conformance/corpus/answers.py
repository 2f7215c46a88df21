"""What a client hears, read by parsers that are not ours: h11 for HTTP/1, hpack and hyperframe for HTTP/2."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import h11
import hpack
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

from tests.conformance.corpus.frames import error_name
from tests.conformance.corpus.vectors import Fields


@dataclass(frozen=True)
class Answer:
    """A response that is whole."""

    status: int
    fields: Fields
    body: bytes


def read_answers(received: bytes, methods: Sequence[str]) -> Iterator[Answer]:
    """The responses to requests of these methods, and to more of GET, up to the end of the connection.

    A response that breaks off, or octets that are none, raise `h11.RemoteProtocolError`.
    """
    asked = iter(methods)
    while received:
        client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        method = "HEAD" if next(asked, "GET") == "HEAD" else "GET"
        client.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(received)
        client.receive_data(b"")
        status, body = 0, b""
        fields: list[tuple[str, str]] = []
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
                fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError(f"{event} in {received!r}")
        yield Answer(status, tuple(fields), body)
        received = client.trailing_data[0]


def decoded(decoder: hpack.Decoder, block: bytes) -> list[tuple[str, str]]:
    """The fields of a header block; characters stand for octets."""
    return [
        (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
        for name, value in decoder.decode(block, raw=True)
    ]


class FrameReader:
    """The frames of one connection, as far as they have come."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._decoder = hpack.Decoder()
        self._statuses: dict[int, int] = {}
        self._fields: dict[int, Fields] = {}
        self._bodies: dict[int, bytes] = {}
        self._ended: set[int] = set()
        #: Error codes, by stream and of the connection.
        self.resets: dict[int, str] = {}
        self.goaway = ""
        self.closed = False

    async def until_over(self, *streams: int, or_goaway: bool = False) -> None:
        """Read until these streams have ended, one way or the other, or the connection has."""
        while not (set(streams) <= self._ended | self.resets.keys() or self.closed or (or_goaway and self.goaway)):
            await self._read()

    def answer(self, stream: int) -> Answer | None:
        """The response on a stream, if it is whole."""
        if stream not in self._ended or stream not in self._statuses:
            return None
        return Answer(self._statuses[stream], self._fields[stream], self._bodies.get(stream, b""))

    def answers(self) -> list[Answer]:
        """Every response that is whole, by stream."""
        found = [self.answer(stream) for stream in sorted(self._statuses)]
        return [answer for answer in found if answer]

    async def _read(self) -> None:
        try:
            frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
            frame.parse_body(memoryview(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed = True
            return
        stream = frame.stream_id
        if isinstance(frame, HeadersFrame):
            fields = decoded(self._decoder, frame.data)
            status = int(dict(fields).get(":status", "0"))
            if status >= 200:
                self._statuses[stream], self._fields[stream] = status, tuple(fields[1:])
        elif isinstance(frame, DataFrame):
            self._bodies[stream] = self._bodies.get(stream, b"") + frame.data
        elif isinstance(frame, RstStreamFrame):
            self.resets[stream] = error_name(frame.error_code)
        elif isinstance(frame, GoAwayFrame):
            self.goaway = error_name(frame.error_code)
        if "END_STREAM" in frame.flags:
            self._ended.add(stream)
