"""HTTP/2 over asyncio streams with the library `h2`, as client or server, with real flow control both ways.

A piece of a body counts as consumed when the test reads it, so a reader that stops makes the peer stop too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from tests.tools.wire.http1 import close, reset
from tests.tools.wire.message import Aborted, Exchange, Headers, Request, Response, first


class Stream:
    """One stream; at an origin it is the exchange, at a client it is body and sink at once."""

    request: Request

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection = connection
        self.number = number
        self.trailers: Headers = ()
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        # Pieces with their flow-controlled length; an empty piece is the end, an exception an abort.
        self._pieces: asyncio.Queue[tuple[bytes, int] | Aborted] = asyncio.Queue()
        self._ended = False

    async def read(self) -> bytes:
        """The next piece, empty at the end."""
        while not self._ended:
            piece = await self._pieces.get()
            if isinstance(piece, Aborted):
                self._pieces.put_nowait(piece)
                raise piece
            data, controlled = piece
            if controlled:
                self._connection.consumed(self.number, controlled)
            if data:
                return data
            self._ended = controlled == 0
        return b""

    async def write(self, data: bytes) -> None:
        """Send a piece as far as the windows allow, then wait for them."""
        await self._data(data, end=False)

    async def end(self, trailers: Headers = (), last: bytes = b"") -> None:
        """The body is complete, with `last`: its last frame says so itself, as that of most servers does."""
        await self._data(last, end=not trailers)
        protocol = self._connection.protocol
        if trailers:
            protocol.send_headers(self.number, list(trailers), end_stream=True)
        elif not last:
            protocol.end_stream(self.number)
        await self._connection.flush()

    async def _data(self, data: bytes, *, end: bool) -> None:
        protocol = self._connection.protocol
        while data:
            room = min(await self._connection.room(self.number), protocol.max_outbound_frame_size, len(data))
            piece, data = data[:room], data[room:]
            protocol.send_data(self.number, piece, end_stream=end and not data)
            await self._connection.flush()

    async def reset(self) -> None:
        """Break the stream off."""
        self._connection.protocol.reset_stream(self.number, h2.errors.ErrorCodes.CANCEL)
        await self._connection.flush()

    async def respond(self, status: int, headers: Headers) -> None:
        """Send the response's head."""
        self._connection.protocol.send_headers(self.number, [(":status", str(status)), *headers])
        await self._connection.flush()

    async def receive(self, method: str = "GET") -> tuple[Response, Stream]:
        """The response's head and its body."""
        return await self.response, self

    def arrived(self, data: bytes, controlled: int) -> None:
        """A piece came in; none at all is the end."""
        self._pieces.put_nowait((data, controlled))

    def broken(self, why: str) -> None:
        """Nothing more will come, and what has come is not for reading: it must not hold up other streams."""
        while not self._pieces.empty():
            piece = self._pieces.get_nowait()
            if not isinstance(piece, Aborted) and piece[1]:
                self._connection.consumed(self.number, piece[1])
        self._pieces.put_nowait(Aborted(why))
        if not self.response.done():
            self.response.set_exception(Aborted(why))
            self.response.exception()  # a stream that nobody waits for is not worth a warning


class Connection:
    """One HTTP/2 connection and the task that reads it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        client: bool,
        handle: Callable[[Exchange], Awaitable[None]] | None = None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handle = handle
        self._streams: dict[int, Stream] = {}
        self._handlers: set[asyncio.Future[None]] = set()
        self._wider = asyncio.Event()
        self.protocol = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        )
        self.protocol.local_settings[h2.settings.SettingCodes.ENABLE_PUSH] = 0
        self.goaway: int | None = None

    async def start(self) -> None:
        """Send the preface."""
        self.protocol.initiate_connection()
        if self._handle is not None:
            # An origin that does not read a request must not stop the others of its connection.
            self.protocol.increment_flow_control_window(16 << 20)
        await self.flush()

    async def send(self, request: Request, *, end: bool = False) -> Stream:
        """Open a stream with a request's head."""
        stream = Stream(self, self.protocol.get_next_available_stream_id())
        self._streams[stream.number] = stream
        pseudo = [
            (":method", request.method),
            (":scheme", request.scheme),
            (":authority", request.authority),
            (":path", request.target),
        ]
        self.protocol.send_headers(stream.number, [*pseudo, *request.headers], end_stream=end)
        await self.flush()
        return stream

    async def room(self, number: int) -> int:
        """Wait until the stream may send something; how much it is."""
        while True:
            if number not in self._streams:
                raise Aborted("stream closed")
            try:
                window = self.protocol.local_flow_control_window(number)
            except h2.exceptions.ProtocolError:
                raise Aborted("stream closed") from None
            if window > 0:
                return window
            self._wider.clear()
            await self._wider.wait()

    def consumed(self, number: int, length: int) -> None:
        """The test has taken octets of a stream: let the peer send as many again."""
        try:
            self.protocol.acknowledge_received_data(length, number)
        except h2.exceptions.ProtocolError:
            return  # the stream or the connection is over: there is no window to widen
        self._writer.write(self.protocol.data_to_send())

    async def flush(self) -> None:
        """Write what the protocol has to say."""
        self._writer.write(self.protocol.data_to_send())
        await self._writer.drain()

    async def run(self) -> None:
        """Read until the connection ends."""
        try:
            while data := await self._reader.read(256 * 1024):
                for event in self.protocol.receive_data(data):
                    self._dispatch(event)
                await self.flush()
        except (OSError, h2.exceptions.ProtocolError):
            pass  # the streams are told below
        finally:
            for stream in self._streams.values():
                stream.broken("connection closed")
            self._streams.clear()
            self._wider.set()
            await close(self._writer)

    def reset(self) -> None:
        """End the connection with RST."""
        reset(self._writer)

    async def close(self) -> None:
        """End the connection."""
        await close(self._writer)

    def _dispatch(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            stream = Stream(self, event.stream_id)
            self._streams[stream.number] = stream
            stream.request = _request(event.headers)
            self._answer(stream)
        elif isinstance(event, h2.events.ResponseReceived):
            headers = [(str(name), str(value)) for name, value in event.headers]
            stream = self._streams[event.stream_id]
            stream.response.set_result(Response(int(headers[0][1]), headers[1:]))
        elif isinstance(event, h2.events.DataReceived):
            self._streams[event.stream_id].arrived(event.data, event.flow_controlled_length)
        elif isinstance(event, h2.events.TrailersReceived):
            self._streams[event.stream_id].trailers = [(str(n), str(v)) for n, v in event.headers]
        elif isinstance(event, h2.events.StreamEnded):
            self._streams[event.stream_id].arrived(b"", 0)
        elif isinstance(event, h2.events.StreamReset):
            self._streams.pop(event.stream_id).broken(f"stream reset with {event.error_code}")
            self._wider.set()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code)
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            self._wider.set()

    def _answer(self, stream: Stream) -> None:
        async def run() -> None:
            assert self._handle is not None
            try:
                await self._handle(stream)
            except (OSError, h2.exceptions.ProtocolError):
                pass  # the peer left before the answer was out

        task = asyncio.ensure_future(run())
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)


def _request(fields: object) -> Request:
    assert isinstance(fields, list)
    headers = [(str(name), str(value)) for name, value in fields]
    pseudo = {name: value for name, value in headers if name.startswith(":")}
    plain = [(name, value) for name, value in headers if not name.startswith(":")]
    return Request(
        pseudo[":method"],
        pseudo.get(":path", ""),
        pseudo.get(":authority") or first(plain, "host") or "",
        plain,
        pseudo.get(":scheme", ""),
    )
