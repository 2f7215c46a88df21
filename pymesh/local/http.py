"""A small HTTP/1.1 client on asyncio: what readiness probes, scrapes, the demo's traffic and scenarios need.

One request at a time per connection; a connection that cannot be reused says so. Limits: a head of 64 KiB and a body
of 16 MiB.
"""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from pymesh.capture.namespace import NetworkNamespace
from pymesh.local.plan import ADDRESS

MAX_HEAD = 64 << 10
MAX_BODY = 16 << 20

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpError(Exception):
    """No usable answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; header names are in lower case, of repeated ones the last counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: `set-cookie` fields as they came.
    cookies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tls:
    """A connection over TLS: how, and the server name that is asked for."""

    context: ssl.SSLContext
    server_name: str | None = None


async def connect(
    port: int, tls: Tls | None = None, namespace: NetworkNamespace | None = None, host: str = ADDRESS
) -> Streams:
    """A connection to a port, on loopback unless a `host` is named, from our network namespace or another one."""
    context, name = tls and tls.context, tls and (tls.server_name or "")
    if namespace is None:
        return await asyncio.open_connection(host, port, limit=MAX_HEAD, ssl=context, server_hostname=name)
    made = namespace.connection()
    try:
        await asyncio.get_running_loop().sock_connect(made, (host, port))
    except BaseException:
        made.close()
        raise
    return await asyncio.open_connection(sock=made, limit=MAX_HEAD, ssl=context, server_hostname=name)


def presented(writer: asyncio.StreamWriter) -> bytes | None:
    """The certificate that the server has shown, in DER."""
    session = writer.get_extra_info("ssl_object")
    return None if session is None else session.getpeercert(binary_form=True)


class Client(ABC):
    """Who asks a port, as :func:`connect` finds it: its connection is opened at the first request, and anew when it was
    closed."""

    #: What a request fails by.
    _FAILURES: ClassVar[tuple[type[Exception], ...]] = (
        *(OSError, TimeoutError, ValueError),
        *(asyncio.IncompleteReadError, asyncio.LimitOverrunError),
    )

    def __init__(
        self,
        port: int,
        timeout: float = 15.0,
        tls: Tls | None = None,
        namespace: NetworkNamespace | None = None,
        host: str = ADDRESS,
    ) -> None:
        self._port = port
        self._namespace = namespace
        self._host = host
        self._timeout = timeout
        self._tls = tls
        self._streams: Streams | None = None
        #: What the server has shown, in DER, when the connection was opened.
        self.certificate: bytes | None = None

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """One request; `host` among the headers is the authority. Raises :class:`HttpError`; it is closed then."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(method, path, headers or {}, body)
        except self._FAILURES as error:
            await self.close()
            raise HttpError(
                f"{method} {self._host}:{self._port}{path}: {str(error) or type(error).__name__}"
            ) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close it; the next request opens it anew."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _open(self) -> Streams:
        if self._streams is None:
            self._streams = await connect(self._port, self._tls, self._namespace, self._host)
            self.certificate = presented(self._streams[1])
        return self._streams

    @abstractmethod
    async def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send it, and read the answer."""


class Connection(Client):
    """HTTP/1.1."""

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """One GET request, as :meth:`request`."""
        return await self.request("GET", path, headers)

    async def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        reader, writer = await self._open()
        fields = {"host": f"{ADDRESS}:{self._port}"} | {name.lower(): value for name, value in headers.items()}
        if body or method not in ("GET", "HEAD"):
            fields["content-length"] = str(len(body))
        writer.write(head(method, path, fields) + body)
        await writer.drain()
        answer = await read_answer(reader, method)
        if answer.headers.get("connection", "").lower() == "close":
            await self.close()
        return answer


async def get(
    port: int,
    path: str,
    headers: Mapping[str, str] | None = None,
    patience: float = 5.0,
    namespace: NetworkNamespace | None = None,
) -> Answer:
    """One request on a connection of its own."""
    connection = Connection(port, patience, namespace=namespace)
    try:
        return await connection.get(path, headers)
    finally:
        await connection.close()


def head(method: str, path: str, fields: Mapping[str, str]) -> bytes:
    """A request's head."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def read_answer(reader: asyncio.StreamReader, method: str) -> Answer:
    """The response to a request of that method, whole. What follows 101 (Switching Protocols) is left unread."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not HTTP/1: {first[:40]!r}")
    status = int(rest[:3])
    headers: dict[str, str] = {}
    cookies = []
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
        if name.lower() == "set-cookie":
            cookies.append(value.strip())
    if method == "HEAD" or status in (101, 204, 304):
        return Answer(status, headers, b"", tuple(cookies))
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Answer(status, headers, await _chunked(reader), tuple(cookies))
    if "content-length" in headers:
        length = int(headers["content-length"])
        if not 0 <= length <= MAX_BODY:
            raise ValueError(f"a body of {length} bytes")
        return Answer(status, headers, await reader.readexactly(length), tuple(cookies))
    body = await reader.read(MAX_BODY)
    return Answer(status, {**headers, "connection": "close"}, body, tuple(cookies))


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size == 0:
            while (await reader.readuntil(b"\r\n")) != b"\r\n":
                pass
            return bytes(body)
        if size < 0 or len(body) + size > MAX_BODY:
            raise ValueError("the body is too long")
        body += await reader.readexactly(size)
        await reader.readexactly(2)
