"""Connections to the webhooks: how many, and for how long without a request."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pymesh.control.admin.serving import AdminServer
from pymesh.control.admission.entrance import Entrance
from tests.tools.certificates import Authority

ASK = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LONG = 3600.0


@dataclass
class Door:
    """A server whose answers are held until somebody says so."""

    port: int
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    turned_away: int = 0
    peers: list[Peer] = field(default_factory=list)

    async def connected(self, tls: ssl.SSLContext | None = None) -> Peer:
        name = "a.test" if tls is not None else None
        self.peers.append(Peer(*await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname=name)))
        return self.peers[-1]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():  # noqa: ASYNC110 - what is waited for happens in uvicorn
                await asyncio.sleep(0.01)


@dataclass
class Peer:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def answer(self) -> bytes:
        async with asyncio.timeout(60):
            head = await self.reader.readuntil(b"\r\n\r\n")
            await self.reader.readexactly(len(b"here\n"))
        return head.partition(b"\r\n")[0]

    async def is_closed(self) -> bool:
        async with asyncio.timeout(60):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


@asynccontextmanager
async def door(
    *, most: int = 100, handshake: float = LONG, head: float = LONG, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Door]:
    sock = socket.create_server(("127.0.0.1", 0))
    made = Door(sock.getsockname()[1])
    made.hold.set()

    async def page(_: Request) -> Response:
        made.asked += 1
        await made.hold.wait()
        return PlainTextResponse("here\n")

    def turned_away() -> None:
        made.turned_away += 1

    entrance = Entrance(sock, tls, turned_away, most=most, handshake_seconds=handshake, head_seconds=head)
    server = AdminServer(Starlette(routes=[Route("/", page)]), sock, tls, entrance.run)
    await server.start()
    try:
        yield made
    finally:
        made.hold.set()
        for peer in made.peers:
            peer.writer.close()
            with suppress(OSError):
                await peer.writer.wait_closed()
        await server.stop()
        sock.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


def test_who_has_waited_longest_without_a_request_makes_room() -> None:
    async def scenario() -> None:
        async with door(most=3) as made:
            made.hold.clear()
            busy = await made.connected()
            busy.send(ASK)
            await made.until(lambda: made.asked == 1)
            silent = [await made.connected() for _ in range(2)]
            silent[0].send(b"GET / HT")  # half a head is no request
            newcomer = await made.connected()
            newcomer.send(ASK)
            await made.until(lambda: made.asked == 2)
            assert await silent[0].is_closed()
            assert made.turned_away == 1
            silent[1].send(ASK)
            await made.until(lambda: made.asked == 3)
            # All are being answered: who comes now has to leave.
            late = await made.connected()
            assert await late.is_closed()
            assert made.turned_away == 2
            made.hold.set()
            for one in (busy, newcomer, silent[1]):
                assert await one.answer() == b"HTTP/1.1 200 OK"

    run(scenario)


def test_connections_that_ask_again_and_again_stay() -> None:
    async def scenario() -> None:
        async with door(most=1) as made:
            one = await made.connected()
            for number in range(5):
                one.send(ASK)
                assert await one.answer() == b"HTTP/1.1 200 OK", number
            one.send(ASK * 3)
            for number in range(3):
                assert await one.answer() == b"HTTP/1.1 200 OK", number
            assert made.turned_away == 0

    run(scenario)


def test_a_head_that_does_not_come_is_not_waited_for() -> None:
    async def scenario() -> None:
        async with door(head=0.2) as made:
            silent, slow, answered = [await made.connected() for _ in range(3)]
            answered.send(ASK)
            assert await answered.answer() == b"HTTP/1.1 200 OK"

            async def dribble() -> None:
                while True:
                    slow.send(b"GET / HTTP/1.1\r\nx: y\r\n" if made.asked == 1 else b"")
                    await asyncio.sleep(0.02)
                    slow.send(b"x: y\r\n")

            task = asyncio.create_task(dribble())
            assert [await one.is_closed() for one in (silent, slow, answered)] == [True] * 3
            task.cancel()
            assert made.asked == 1

    run(scenario)


def test_an_answer_may_take_longer_than_a_head() -> None:
    async def scenario() -> None:
        async with door(head=0.1) as made:
            made.hold.clear()
            one = await made.connected()
            one.send(ASK)
            await asyncio.sleep(0.5)
            made.hold.set()
            assert await one.answer() == b"HTTP/1.1 200 OK"

    run(scenario)


def test_who_begins_no_handshake_is_not_waited_for_and_holds_no_place(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("a", dns=["a.test"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.chain, pair.key)

    async def scenario() -> None:
        async with door(most=1, handshake=0.2, tls=tls) as made:
            silent = await made.connected()
            assert await silent.is_closed()
            # Nor does one in the middle of its handshake keep others out.
            async with door(most=1, tls=tls) as patient:
                silent = await patient.connected()
                context = ssl.create_default_context(cafile=str(authority.root))
                peer = await patient.connected(context)
                peer.send(ASK)
                assert await peer.answer() == b"HTTP/1.1 200 OK"
                assert await silent.is_closed()

    run(scenario)
