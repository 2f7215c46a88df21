"""The gRPC transport: grpclib over h2, narrowed to what the control plane's services need.

Everything that touches grpclib stays here. Messages cross as bytes: responses are encoded before they
come here, and a request is decoded by the service, after its length was checked. Beyond grpclib this file
adds limits (message length, windows, connections), pings that find dead peers, patience with HTTP/2
frames that h2 reports and grpclib does not know, messages that are sent from where they lie (hundreds of
streams are sent the same megabytes, of which nobody makes a copy of its own), and a short way for the
frames that come most (:mod:`pymesh.control.xds.frames`) and for what is in them (``inbox``).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol, Stream
from grpclib.server import Server
from h2.events import RequestReceived

from pymesh.control.xds.frames import Frames
from pymesh.control.xds.inbox import PREFIX, Inbox

__all__ = ["Bytes", "Call", "GRPCError", "GrpcServer", "Limits", "Method", "Status", "StreamTerminatedError"]

#: Type and flags of a DATA frame that does not end its stream (RFC 9113, 4.1 and 6.1).
_DATA = b"\0\0"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client can make us hold."""

    message: int = 16 << 20
    stream_window: int = 256 << 10
    connection_window: int = 1 << 20
    connections: int = 10_000


class Call:
    """One call: metadata in, bytes in and out."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._rest: _Octets | None = None
        address = stream.peer.addr()  # it is gone when the connection is
        #: The peer's address, for logs.
        self.peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) and len(address) > 1 else "local"

    def header(self, name: str) -> str:
        """A metadata value, or an empty string."""
        value = self._stream.metadata.get(name, "")
        return value if isinstance(value, str) else ""

    async def receive(self) -> bytes | None:
        """The next message, None at the end. Raises ``GRPCError`` for one that is broken or too long."""
        inbox: Inbox = self._stream._stream.buffer
        return await inbox.receive()

    async def each(self, take: Callable[[bytes], None]) -> None:
        """Have every message taken as soon as it is there; returns at the end. Raises what ``take`` does, too."""
        inbox: Inbox = self._stream._stream.buffer
        await inbox.each(take)

    async def begin(self) -> None:
        """Send what comes before the first message."""
        if not self._stream._send_initial_metadata_done:
            await self._stream.send_initial_metadata()

    async def send(self, *parts: bytes) -> None:
        """Send one message, the octets of its parts; returns when HTTP/2 flow control took all of it."""
        await self.begin()
        self.write(*parts)
        await self.drained()

    @property
    def is_free(self) -> bool:
        """Whether all of the message before is sent, and the peer reads what it is sent."""
        connection: Connection = self._stream._stream.connection
        return self._rest is None and connection.write_ready.is_set()

    def write(self, *parts: bytes) -> None:
        """Send one message as far as the peer's windows allow. Only after :meth:`begin`, while this :attr:`is_free`;
        the rest goes in :meth:`drained`.
        """
        self._stream._send_message_done = True
        self._rest = _Octets((b"\0" + sum(map(len, parts)).to_bytes(PREFIX - 1, "big"), *parts))
        self._go_on()

    async def drained(self) -> None:
        """Send the rest of a message, as the peer opens its windows; return when the call is free."""
        stream: Stream = self._stream._stream
        while True:
            await stream.connection.write_ready.wait()
            self._go_on()
            if self._rest is None:
                return
            stream.window_updated.clear()
            await stream.window_updated.wait()

    def _go_on(self) -> None:
        if self._rest is not None:
            _send(self._stream._stream, self._rest)
            if not self._rest.left:
                self._rest = None


class _Octets:
    """What is left to send of some parts. They are others' as well, so that a slow client keeps nothing of its own."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts
        #: Of the first part that is left: its number, and where it goes on.
        self._part = self._begin = 0
        self.left = sum(map(len, parts))

    def take(self, size: int) -> list[bytes | memoryview]:
        """The next ``size`` octets of those that are left."""
        self.left -= size
        taken: list[bytes | memoryview] = []
        while size > 0:
            part = self._parts[self._part]
            end = self._begin + size
            if end < len(part):
                taken.append(memoryview(part)[self._begin : end])
                self._begin = end
                break
            taken.append(memoryview(part)[self._begin :] if self._begin else part)
            size = end - len(part)
            self._part, self._begin = self._part + 1, 0
        return taken


def _send(stream: Stream, octets: _Octets) -> None:
    """As grpclib's ``send_data``, with all DATA frames that the windows allow now in one write. They are framed here:
    h2 would copy each three times, and has no part in a frame but to count it.
    """
    if stream.id is None or not stream.closable:
        raise StreamTerminatedError("the stream is closed")
    h2, number = stream._h2_connection, stream.id.to_bytes(4, "big")
    counted = h2.streams[stream.id]
    allowed = min(h2.outbound_flow_control_window, counted.outbound_flow_control_window, octets.left)
    if allowed <= 0:  # it can become negative
        return
    h2.outbound_flow_control_window -= allowed
    counted.outbound_flow_control_window -= allowed
    written: list[bytes | memoryview] = []
    while allowed > 0:
        size = min(allowed, h2.max_outbound_frame_size)
        written += (size.to_bytes(3, "big") + _DATA + number, *octets.take(size))
        allowed -= size
    stream._transport.write(b"".join(written))
    stream.connection.data_send_process()


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service."""

    handle: Callable[[Call], Awaitable[None]]
    streaming: bool


class GrpcServer:
    """Serves methods by path, on TCP or on a Unix socket."""

    def __init__(self, methods: Mapping[str, Method], limits: Limits | None = None) -> None:
        self._methods = methods
        self._limits = limits or Limits()
        #: Made at the start: grpclib binds a server to the event loop that it is made in.
        self._server: _LimitedServer | None = None

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serve on a bound socket."""
        server = _LimitedServer([_Methods(self._methods)], self._limits)
        await server.start(sock=sock, ssl=tls)
        self._server = server

    async def start_unix(self, path: str) -> None:
        """Serve on a Unix socket at ``path``."""
        server = _LimitedServer([_Methods(self._methods)], self._limits)
        await server.start(path=path)
        self._server = server

    async def stop(self) -> None:
        """Refuse new connections, end the calls, close what is open."""
        if self._server is not None:
            self._server.close()
            self._server.drop_connections()
            await self._server.wait_closed()
            self._server = None


class Bytes(CodecBase):
    """Messages are bytes on both sides."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


class _Methods:
    """grpclib's idea of a service."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods

    def __mapping__(self) -> dict[str, Handler]:
        return {path: self._handler(method) for path, method in self._methods.items()}

    def _handler(self, method: Method) -> Handler:
        async def handle(stream: Any) -> None:
            await method.handle(Call(stream))

        cardinality = Cardinality.STREAM_STREAM if method.streaming else Cardinality.UNARY_UNARY
        return Handler(handle, cardinality, bytes, bytes)


class _LimitedServer(Server):
    def __init__(self, handlers: list[Any], limits: Limits) -> None:
        config = Configuration(
            _keepalive_time=30.0,
            _keepalive_timeout=20.0,
            _keepalive_permit_without_calls=True,
            _http2_max_pings_without_data=0,
            _http2_min_sent_ping_interval_without_data=10.0,
            http2_connection_window_size=limits.connection_window,
            http2_stream_window_size=limits.stream_window,
        )
        super().__init__(handlers, codec=Bytes(), config=config)
        self._connections: set[_Connection] = set()
        self._limits = limits

    def _protocol_factory(self) -> H2Protocol:
        plain = super()._protocol_factory()
        return _Connection(plain, self._connections, self._limits)

    def drop_connections(self) -> None:
        for connection in list(self._connections):
            connection.processor.close("the server stops")


class _Connection(H2Protocol):
    _frames: Frames

    def __init__(self, plain: H2Protocol, connections: set[_Connection], limits: Limits) -> None:
        super().__init__(plain.handler, plain.config, plain.h2_config)
        self._connections = connections
        self._limits = limits

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        events = self.processor = _Events(self.handler, self.connection, self._limits.message)
        self._frames = Frames(self.connection._connection, events.streams, transport.write)
        if len(self._connections) >= self._limits.connections:
            self.processor.close("too many connections")
            return
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if not self.connection.is_closing():
            self._frames.take(data, self._others)

    def _others(self, octets: bytes) -> bool:
        super().data_received(octets)
        return not self.connection.is_closing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.discard(self)
        super().connection_lost(exc)


class _Events(EventsProcessor):
    def __init__(self, handler: AbstractHandler, connection: Connection, longest: int) -> None:
        super().__init__(handler, connection)
        self._longest = longest

    def process(self, event: Any) -> None:
        # HTTP/2 lets a receiver ignore frames that it does not know (RFC 9113, 4.1); grpclib would raise.
        if type(event) in getattr(self, "processors", ()):
            super().process(event)

    def process_request_received(self, event: RequestReceived) -> None:
        super().process_request_received(event)
        # The handler's task has not begun. grpclib's own buffer would take a message of any length.
        number = event.stream_id
        self.streams[number].buffer = Inbox(  # type: ignore[assignment]
            partial(self.connection.ack, number), self._longest
        )
