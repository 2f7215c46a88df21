"""Connect to a proxy and exchange messages with it: one function per need, both versions, with or without TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.tools.wire import http1, http2
from tests.tools.wire.message import Headers, Request, Response, Sink, whole


@dataclass(frozen=True)
class Answer:
    """A complete response."""

    status: int
    headers: Headers
    body: bytes
    trailers: Headers = field(default=())

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return Response(self.status, self.headers).header(name)


@asynccontextmanager
async def http1_connection(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[http1.Client]:
    """An HTTP/1.1 connection for the length of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=_name(tls))
    client = http1.Client(reader, writer)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def http2_connection(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[http2.Connection]:
    """An HTTP/2 connection for the length of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=_name(tls))
    connection = http2.Connection(reader, writer, client=True)
    await connection.start()
    task = asyncio.ensure_future(connection.run())
    try:
        yield connection
    finally:
        await connection.close()
        await asyncio.wait([task])


def fetch(
    port: int, request: Request, body: bytes = b"", *, use_http2: bool = False, tls: ssl.SSLContext | None = None
) -> Answer:
    """One request on a connection of its own."""
    return asyncio.run(asyncio.wait_for(_fetch(port, request, body, use_http2, tls), 60))


async def _fetch(port: int, request: Request, body: bytes, use_http2: bool, tls: ssl.SSLContext | None) -> Answer:
    if use_http2:
        async with http2_connection(port, tls) as connection:
            stream = await connection.send(request, end=not body)
            return await exchange(stream, stream, request.method, body)
    async with http1_connection(port, tls) as client:
        sink = await client.send(_with_length(request, len(body)) if body else request)
        return await exchange(sink, client, request.method, body)


async def exchange(sink: Sink, source: http1.Client | http2.Stream, method: str, body: bytes) -> Answer:
    """Send a body while the response comes in: an origin that echoes would otherwise block both sides."""

    async def send() -> None:
        await sink.write(body)
        await sink.end()

    sending = asyncio.ensure_future(send()) if body else None
    try:
        return await answer(source, method)
    finally:
        if sending:
            sending.cancel()
            await asyncio.wait([sending])


async def answer(source: http1.Client | http2.Stream, method: str = "GET") -> Answer:
    """The whole response."""
    head, body = await source.receive(method)
    content = await whole(body)
    return Answer(head.status, head.headers, content, body.trailers)


def client_context(root: str, alpn: list[str]) -> ssl.SSLContext:
    """TLS for a client that trusts `root`."""
    context = ssl.create_default_context(cafile=root)
    context.set_alpn_protocols(alpn)
    return context


def _with_length(request: Request, length: int) -> Request:
    headers = [*request.headers, ("content-length", str(length))]
    return Request(request.method, request.target, request.authority, headers, request.scheme)


def _name(tls: ssl.SSLContext | None) -> str | None:
    return "localhost" if tls else None
