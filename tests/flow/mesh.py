"""One proxy between every kind of client and every kind of origin, and one way to talk through it.

A pair is `(way, name)`: how the client comes in and which origin the request goes to, both out of `WAYS`. Clusters
close what they pool after a moment without use, so that an open connection that stays means a leak.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.proxy.running import Proxy, eventually
from tests.tools.wire import http1, http2
from tests.tools.wire.client import client_context, http1_connection, http2_connection
from tests.tools.wire.message import Body, Headers, Request, Response, Sink
from tests.tools.wire.origin import Origin

WAYS = ["http1", "http1-tls", "http2", "http2-tls"]
PAIRS = [(way, name) for way in WAYS for name in WAYS]
MIB = 1 << 20

Connection = http1.Client | http2.Connection


@dataclass(frozen=True)
class Call:
    """A request under way: where its body goes and where the answer comes from."""

    sink: Sink
    source: http1.Client | http2.Stream

    async def answer(self) -> tuple[Response, Body]:
        """The response's head, and its body to be read piece by piece."""
        return await self.source.receive()


@dataclass(frozen=True)
class Mesh:
    """The proxy under test, its origins by name, and the port of each way in."""

    proxy: Proxy
    origins: dict[str, Origin]
    ports: dict[str, int]
    root: str

    @asynccontextmanager
    async def connect(self, way: str) -> AsyncIterator[Connection]:
        """A client's connection for the length of the block; it ends with RST, so that it never waits for the proxy."""
        version, *secure = way.split("-")
        tls = client_context(self.root, ["h2" if version == "http2" else "http/1.1"]) if secure else None
        opened = http2_connection if version == "http2" else http1_connection
        async with opened(self.ports[way], tls) as connection:
            try:
                yield connection
            finally:
                connection.reset()

    def quiet(self) -> bool:
        """Whether the proxy comes to hold no connection and no request any more, on either side."""
        return eventually(lambda: not self.proxy.active())


async def call(connection: Connection, name: str, *wants: str, body: bool = False) -> Call:
    """Send a request's head to the origin `name`; a `want` is `bytes=100`, for `x-want-bytes: 100`."""
    pairs = (want.partition("=") for want in wants)
    headers: Headers = [(f"x-want-{key}", value or "1") for key, _, value in pairs]
    if isinstance(connection, http1.Client):
        if body:
            headers = [*headers, ("transfer-encoding", "chunked")]
        sink = await connection.send(_request(name, headers, body))
        return Call(sink, connection)
    stream = await connection.send(_request(name, headers, body), end=not body)
    return Call(stream, stream)


async def comes(condition: Callable[[], bool]) -> bool:
    """`eventually`, while the connections of the test go on."""
    return await asyncio.to_thread(eventually, condition)


async def settled(count: Callable[[], int], patience: float = 0.4) -> int:
    """The value that `count()` comes to rest at."""
    before, value = -1, count()
    while value != before:
        await asyncio.sleep(patience)
        before, value = value, count()
    return value


async def read_at_least(body: Body, octets: int) -> int:
    """Read until so many octets have come; how many it were."""
    taken = 0
    while taken < octets and (piece := await body.read()):
        taken += len(piece)
    return taken


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine; what hangs fails."""
    asyncio.run(asyncio.wait_for(test, 40))


def _request(name: str, headers: Headers, body: bool) -> Request:
    return Request("POST" if body else "GET", f"/{name}/", "localhost", headers)
