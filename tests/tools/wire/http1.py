"""HTTP/1.1 over asyncio streams: strict where it reads, literal where it writes."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from tests.tools.wire.message import Aborted, Exchange, Headers, Request, Response, first

_PIECE = 64 * 1024


class Incoming:
    """A body framed by `content-length`, by chunks, by the end of the connection, or absent."""

    def __init__(self, reader: asyncio.StreamReader, headers: Headers, *, until_close: bool) -> None:
        self._reader = reader
        length = first(headers, "content-length")
        self._chunked = (first(headers, "transfer-encoding") or "").lower() == "chunked"
        if self._chunked and length is not None:
            raise Aborted("both content-length and transfer-encoding")
        self._until_close = until_close and not self._chunked and length is None
        self._left = 0 if self._chunked else int(length or 0)
        self._done = not (self._chunked or self._until_close or self._left)
        self.trailers: Headers = ()

    async def read(self) -> bytes:
        """The next piece, empty at the end."""
        if self._done:
            return b""
        if self._until_close:
            piece = await self._reader.read(_PIECE)
            self._done = not piece
            return piece
        if self._chunked and self._left == 0:
            self._left = int(await _line(self._reader), 16)
            if self._left == 0:
                self.trailers = await _fields(self._reader)
                self._done = True
                return b""
        piece = await self._reader.read(min(self._left, _PIECE))
        if not piece:
            raise Aborted("connection closed inside a body")
        self._left -= len(piece)
        if self._left == 0:
            if self._chunked and await _line(self._reader):
                raise Aborted("octets after a chunk")
            self._done = not self._chunked
        return piece


class Outgoing:
    """A body on its way out: chunked unless the head named a length."""

    def __init__(self, writer: asyncio.StreamWriter, headers: Headers, *, bodiless: bool = False) -> None:
        self._writer = writer
        self._chunks = first(headers, "transfer-encoding") == "chunked" and not bodiless

    async def write(self, data: bytes) -> None:
        """Send a piece."""
        if data:
            self._writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunks else data)
            await self._writer.drain()

    async def end(self, trailers: Headers = (), last: bytes = b"") -> None:
        """The body is complete, with `last`."""
        if last:
            await self.write(last)
        if self._chunks:
            fields = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            self._writer.write(f"0\r\n{fields}\r\n".encode())
            await self._writer.drain()

    async def reset(self) -> None:
        """Send RST instead of FIN."""
        reset(self._writer)


class ServerExchange(Incoming, Outgoing):
    """One request at an HTTP/1.1 origin."""

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        Incoming.__init__(self, reader, request.headers, until_close=False)
        self.request = request
        self._writer = writer
        self._written: Headers | None = None

    async def respond(self, status: int, headers: Headers) -> None:
        """Send the response's head; a head without a length announces chunks."""
        bodiless = self.request.method == "HEAD" or status in (204, 304)
        if first(headers, "content-length") is None and not bodiless:
            headers = [*headers, ("transfer-encoding", "chunked")]
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self._writer.write(f"HTTP/1.1 {status} Status\r\n{fields}\r\n".encode("latin-1"))
        Outgoing.__init__(self, self._writer, headers, bodiless=bodiless)
        await self._writer.drain()

    async def write(self, data: bytes) -> None:
        """Send a piece."""
        await Outgoing.write(self, data)
        if self._writer.get_extra_info("ssl_object"):
            # Over TLS asyncio drops in silence what is written after the other side has left: look whether it has.
            await asyncio.sleep(0)
            if self._reader.at_eof():
                raise Aborted("connection closed")


async def serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Callable[[Exchange], Awaitable[None]]
) -> None:
    """Answer one connection's requests in turn until a side ends it."""
    try:
        while line := await _line(reader, optional=True):
            method, target, _version = line.split(" ")
            headers = await _fields(reader)
            request = Request(method, target, first(headers, "host") or "", headers)
            exchange = ServerExchange(request, reader, writer)
            await handle(exchange)
            while await exchange.read():
                pass
            if first(headers, "connection") == "close":
                break
    except (OSError, Aborted, asyncio.IncompleteReadError):
        pass  # the other side left: the handler has seen it, nobody else has to
    finally:
        await close(writer)


class Client:
    """One HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, request: Request) -> Outgoing:
        """Send a request's head; without a length and with `transfer-encoding` the body goes in chunks."""
        fields = [("host", request.authority), *request.headers]
        text = "".join(f"{name}: {value}\r\n" for name, value in fields)
        self._writer.write(f"{request.method} {request.target} HTTP/1.1\r\n{text}\r\n".encode("latin-1"))
        await self._writer.drain()
        return Outgoing(self._writer, request.headers)

    async def receive(self, method: str = "GET") -> tuple[Response, Incoming]:
        """The response's head and its body; informational responses are passed over."""
        while True:
            version, status, *_ = (await _line(self._reader)).split(" ")
            if not version.startswith("HTTP/1."):
                raise Aborted(f"not HTTP/1: {version}")
            headers = await _fields(self._reader)
            if not 100 <= int(status) < 200:
                break
        bodiless = method == "HEAD" or int(status) in (204, 304)
        framing = [] if bodiless else headers
        return Response(int(status), headers), Incoming(self._reader, framing, until_close=not bodiless)

    async def finish(self) -> None:
        """Close our direction only."""
        self._writer.write_eof()

    def reset(self) -> None:
        """End the connection with RST."""
        reset(self._writer)

    async def close(self) -> None:
        """End the connection."""
        await close(self._writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, dropping what was not sent."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def close(writer: asyncio.StreamWriter) -> None:
    """End a connection and wait until it is gone."""
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass  # the other side ended it first


async def _line(reader: asyncio.StreamReader, *, optional: bool = False) -> str:
    try:
        line = await reader.readuntil(b"\r\n")
    except asyncio.IncompleteReadError as short:
        if optional and not short.partial:
            return ""
        raise Aborted(f"connection closed after {short.partial!r}") from None
    return line[:-2].decode("latin-1")


async def _fields(reader: asyncio.StreamReader) -> Headers:
    fields = []
    while line := await _line(reader):
        name, _, value = line.partition(":")
        fields.append((name.lower(), value.strip()))
    return fields
