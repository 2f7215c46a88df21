"""Ten megabytes both ways at the same time: the origin sends back what comes in, while it comes in."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest

from tests.flow.mesh import MIB, PAIRS, Mesh, call, run
from tests.tools.wire.message import Body, Sink

CONTENT = random.Random(7).randbytes(10 * MIB)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PIECE = 64 * 1024
#: What the proxy may hold of one exchange, buffers of TLS and of the allocator included.
ROOM_KIB = 8 * 1024


@pytest.mark.parametrize(("way", "name"), PAIRS)
def test_ten_megabytes_both_ways_at_once(way: str, name: str, mesh: Mesh) -> None:
    before = mesh.proxy.resident_kib()

    async def test() -> None:
        async with mesh.connect(way) as connection:
            echo = await call(connection, name, "echo", body=True)
            sending = asyncio.ensure_future(_send(echo.sink))
            head, body = await echo.answer()
            assert head.status == 200
            assert await _digest(body) == DIGEST
            await sending

    run(test())
    assert mesh.proxy.resident_kib() < before + ROOM_KIB


@pytest.mark.parametrize("name", ["http1", "http2"])
def test_many_streams_of_one_connection_at_once(name: str, mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.connect("http2") as connection:

            async def echo() -> str:
                one = await call(connection, name, "echo", body=True)
                sending = asyncio.ensure_future(_send(one.sink, MIB))
                _, body = await one.answer()
                digest = await _digest(body)
                await sending
                return digest

            digests = await asyncio.gather(*(echo() for _ in range(20)))
            assert set(digests) == {hashlib.sha256(CONTENT[:MIB]).hexdigest()}

    run(test())


async def _send(sink: Sink, length: int = len(CONTENT)) -> None:
    for start in range(0, length, PIECE):
        await sink.write(CONTENT[start : start + PIECE])
    await sink.end()


async def _digest(body: Body) -> str:
    digest = hashlib.sha256()
    while piece := await body.read():
        digest.update(piece)
    return digest.hexdigest()
