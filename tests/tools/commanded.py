"""An HTTP/1.1 origin that answers as it is told, fails as it is told, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.tools.certificates import KeyPair
from tests.tools.serving import serving


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
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if tls else None
    if context and tls:
        context.load_cert_chain(tls.chain, tls.key)
    with serving([one.serve for one in made], context) as ports:
        for one, port in zip(made, ports, strict=True):
            one.port = port
        yield made
