"""Messages come whole out of any pieces, and a peer can send no more than what is read, and one window."""

from __future__ import annotations

import asyncio
import random

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from pymesh.control.xds.inbox import Inbox


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


async def receive_all(inbox: Inbox) -> list[bytes]:
    found = []
    while (message := await inbox.receive()) is not None:
        found.append(message)
    return found


async def take_all(inbox: Inbox) -> list[bytes]:
    found: list[bytes] = []
    await inbox.each(found.append)
    return found


@pytest.mark.parametrize("read", [receive_all, take_all])
@pytest.mark.parametrize("size", [1, 4, 7, 1000])
def test_messages_come_whole(read: object, size: int) -> None:
    rng = random.Random(size)
    messages = [rng.randbytes(rng.randrange(30)) for _ in range(20)]
    octets = b"".join(map(framed, messages))

    async def main() -> None:
        given: list[int] = []
        inbox = Inbox(given.append, 100)
        reading = asyncio.create_task(read(inbox))  # type: ignore[operator]
        for at in range(0, len(octets), size):
            if rng.random() < 0.5:
                await asyncio.sleep(0)
            piece = octets[at : at + size]
            inbox.add(piece, len(piece))
        inbox.eof()
        assert await asyncio.wait_for(reading, 30) == messages
        assert sum(given) + inbox.unacked_size() == len(octets)

    asyncio.run(main())


def test_what_nobody_reads_is_not_given_back() -> None:
    async def main() -> None:
        given: list[int] = []
        inbox = Inbox(given.append, 100)
        for message in (b"a", b"b"):
            inbox.add(framed(message), 6)
        assert given == []
        assert await inbox.receive() == b"a"
        inbox.add(framed(b"c"), 6)
        assert given == [12]
        assert inbox.unacked_size() == 6

    asyncio.run(main())


@pytest.mark.parametrize("read", [receive_all, take_all])
@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (framed(b"x", compressed=True), Status.UNIMPLEMENTED),
        (framed(bytes(101))[:5], Status.RESOURCE_EXHAUSTED),
        (framed(b"whole") + framed(b"cut")[:-1], Status.INVALID_ARGUMENT),
        (b"\0\0", Status.INVALID_ARGUMENT),
    ],
)
def test_what_is_broken_ends_the_reading(read: object, octets: bytes, status: Status) -> None:
    async def main() -> None:
        inbox = Inbox(lambda _: None, 100)
        inbox.add(octets, len(octets))
        inbox.eof()
        with pytest.raises(GRPCError) as caught:
            await read(inbox)  # type: ignore[operator]
        assert caught.value.status is status
        inbox.add(octets, len(octets))  # what comes after it hurts nobody

    asyncio.run(main())
