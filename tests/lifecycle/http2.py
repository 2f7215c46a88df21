"""An HTTP/2 client that does what RFC 9113 section 6.8 asks of one.

Python's h2 takes every GOAWAY for the end of the connection, so frames are read here, with hyperframe and hpack.
"""

from __future__ import annotations

import asyncio

import hpack
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.lifecycle.tally import Told

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_REFUSED_STREAM = 7
_HEADER = 9


class Connection:
    """One connection; `leaving` once a GOAWAY has come: nothing new may be asked then."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._open: dict[int, asyncio.Future[None]] = {}
        self._next = 1
        self.leaving = False
        writer.write(_PREFACE + SettingsFrame(settings={SettingsFrame.ENABLE_PUSH: 0}).serialize())
        self._task = asyncio.ensure_future(self._read())

    async def get(self, path: str) -> None:
        """Ask, and wait for the whole answer, which must be a 200."""
        stream, self._next = self._next, self._next + 2
        answer = self._open[stream] = asyncio.get_running_loop().create_future()
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "load.test"), (":path", path)]
        frame = HeadersFrame(stream, self._encoder.encode(head), flags=["END_HEADERS", "END_STREAM"])
        self._writer.write(frame.serialize())
        try:
            await answer
        finally:
            del self._open[stream]

    async def close(self) -> None:
        """End the connection."""
        self._writer.close()
        await asyncio.wait([self._task])

    async def _read(self) -> None:
        last, why = 1 << 31, "the connection has ended"
        try:
            while True:
                header = await self._reader.readexactly(_HEADER)
                frame, length = Frame.parse_frame_header(memoryview(header))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                if isinstance(frame, GoAwayFrame):
                    self.leaving, last = True, frame.last_stream_id
                    why = f"{why} after GOAWAY up to {last}, code {frame.error_code}"
                    for stream in [stream for stream in self._open if stream > last]:
                        self._end(stream, Told())
                else:
                    self._take(frame)
        except (OSError, asyncio.IncompleteReadError):
            pass  # told to those who wait
        finally:
            self.leaving = True
            for stream in self._open:
                self._end(stream, Told() if stream > last else ConnectionError(f"{why}; stream {stream} waits"))
            self._writer.close()

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self._writer.write(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self._writer.write(SettingsFrame(flags=["ACK"]).serialize())
        elif isinstance(frame, HeadersFrame):
            status = dict(self._decoder.decode(frame.data)).get(":status")
            if status not in ("200", None):
                self._end(frame.stream_id, ConnectionError(f"status {status}"))
        elif isinstance(frame, DataFrame) and frame.flow_controlled_length:
            self._writer.write(WindowUpdateFrame(0, frame.flow_controlled_length).serialize())
        elif isinstance(frame, RstStreamFrame):
            refused = frame.error_code == _REFUSED_STREAM
            self._end(frame.stream_id, Told() if refused else ConnectionError(f"reset with {frame.error_code}"))
        if "END_STREAM" in frame.flags:
            self._end(frame.stream_id, None)

    def _end(self, stream: int, problem: Exception | None) -> None:
        waiting = self._open.get(stream)
        if waiting is None or waiting.done():
            return
        if problem:
            waiting.set_exception(problem)
        else:
            waiting.set_result(None)
