"""An HTTP/1.1 origin that answers as it is told, fails as it is told, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.tools.certificates import KeyPair


@dataclass(frozen=True)
class Behaviour:
    """What becomes of a request: an answer, or none."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    #: It closes the connection in place of an answer, or takes its time for ever.
    fails: str = ""
    #: It closes the connection behind so many octets of the body.
    cut: int | None = None


@dataclass(frozen=True)
class Asked:
    """A request that has come: its head, and which connection it came over."""

    path: str
    head: str
    connection: int


class Origin:
    """Answers everything by ``behaviour``, and what is below ``/healthz`` by ``health``."""

    def __init__(self, name: str) -> None:
        self.name, self.port = name, 0
        self.behaviour, self.health = Behaviour(), Behaviour()
        self.asked: list[Asked] = []
        self.connections = 0

    @property
    def requests(self) -> int:
        """How many requests have come that are no health checks."""
        return sum(not one.path.startswith("/healthz") for one in self.asked)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        number = self.connections
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._serve_one(reader, writer, number):
                pass
        writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        path = head.split(" ", 2)[1]
        self.asked.append(Asked(path, head, number))
        how = self.health if path.startswith("/healthz") else self.behaviour
        if how.fails == "hang":
            await reader.read()
        if how.fails:
            return False
        fields = {"x-host": self.name, "content-length": str(len(how.body)), **how.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {how.status} x\r\n{lines}\r\n".encode() + how.body[: how.cut])
        await writer.drain()
        return how.cut is None


@contextmanager
def origins(*names: str, tls: KeyPair | None = None) -> Iterator[list[Origin]]:
    """Origins with these names, for the length of the block."""
    made = [Origin(name) for name in names]
    loop = asyncio.new_event_loop()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if tls else None
    if context and tls:
        context.load_cert_chain(tls.chain, tls.key)
    servers = [loop.run_until_complete(asyncio.start_server(one.serve, "127.0.0.1", 0, ssl=context)) for one in made]
    for one, server in zip(made, servers, strict=True):
        one.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        for server in servers:
            server.close()
        loop.run_until_complete(_end_tasks())
        loop.close()


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
