"""Who does not read holds up the one who sends, end to end, and costs the proxy a bounded amount of memory.

Bodies are far larger than what sockets and windows between client and origin can hold, so that one which goes out
whole has been swallowed by somebody's memory.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.flow.mesh import MIB, PAIRS, WAYS, Call, Mesh, call, read_at_least, run, settled
from tests.tools.wire import http2
from tests.tools.wire.message import Sink

#: A receive buffer grows up to 32 MiB where the system allows it (`tcp_rmem`), and there are two on the way.
BODY = 256 * MIB
STREAMS = 4
#: For all the streams of a test together: buffers of 1 MiB in and out, and the room that they grow into. What one body
#: alone would take is more.
ROOM_KIB = 32 * 1024


@pytest.mark.parametrize(("way", "name"), PAIRS)
def test_a_client_that_does_not_read_stops_the_origin(way: str, name: str, mesh: Mesh) -> None:
    origin = mesh.origins[name]
    resident, sent = mesh.proxy.resident_kib(), origin.sent

    async def test() -> None:
        async with AsyncExitStack() as stack:
            calls = []
            for _ in range(STREAMS):
                connection = await stack.enter_async_context(mesh.connect(way))
                calls.append(await call(connection, name, f"bytes={BODY}"))
            bodies = [(await one.answer())[1] for one in calls]
            stopped = await settled(lambda: origin.sent) - sent
            assert stopped < STREAMS * BODY / 2
            assert mesh.proxy.resident_kib() < resident + ROOM_KIB
            # It stopped for want of room alone: room is made, and it goes on.
            assert await read_at_least(bodies[0], 20 * MIB) >= 20 * MIB

    run(test())


@pytest.mark.parametrize(("way", "name"), PAIRS)
def test_an_origin_that_does_not_read_stops_the_client(way: str, name: str, mesh: Mesh) -> None:
    resident, written = mesh.proxy.resident_kib(), [0] * STREAMS

    async def test() -> None:
        async with AsyncExitStack() as stack:

            async def upload(number: int) -> None:
                connection = await stack.enter_async_context(mesh.connect(way))
                one = await call(connection, name, "stall", body=True)
                piece = bytes(64 * 1024)
                while written[number] < BODY:
                    await one.sink.write(piece)
                    written[number] += len(piece)

            uploads = [asyncio.ensure_future(upload(number)) for number in range(STREAMS)]
            await settled(lambda: sum(written))
            assert max(written) < BODY / 2
            assert mesh.proxy.resident_kib() < resident + ROOM_KIB
            for one in uploads:
                one.cancel()
            await asyncio.wait(uploads)

    run(test())


@pytest.mark.parametrize("name", WAYS)
def test_a_slow_stream_does_not_hold_up_its_neighbours(name: str, mesh: Mesh) -> None:
    """Down on the one connection all of them share, and up, where HTTP/2 shares one as well."""

    async def test() -> None:
        async with mesh.connect("http2") as connection:
            # The client's own window for the connection must not be what stops the others.
            assert isinstance(connection, http2.Connection)
            connection.protocol.increment_flow_control_window(4 * MIB)
            await connection.flush()
            slow = await call(connection, name, f"bytes={BODY}")
            await slow.answer()
            stuck = await call(connection, name, "stall", body=True)
            filling = asyncio.ensure_future(_fill(stuck.sink))
            await settled(lambda: mesh.origins[name].sent)
            for _ in range(3):
                down = [await call(connection, name, f"bytes={MIB}") for _ in range(8)]
                up = [await call(connection, name, body=True) for _ in range(8)]
                for one in up:
                    await one.sink.write(bytes(100_000))
                    await one.sink.end()
                # Side by side: a neighbour that waits for another to be read would be a slow stream itself.
                taken = await asyncio.gather(*map(_read, [*down, *up]))
                assert taken[: len(down)] == [MIB] * len(down)
                assert all(taken)
            assert not filling.done()
            filling.cancel()
            await asyncio.wait([filling])

    run(test())


@pytest.mark.parametrize("name", ["http2", "http2-tls"])
def test_many_stuck_streams_do_not_hold_up_those_that_share_their_upstream(name: str, mesh: Mesh) -> None:
    """Each holds what its window lets in, of one connection to the origin that others use too."""

    async def test() -> None:
        async with mesh.connect("http2") as stuck, mesh.connect("http2") as quick:
            sent = mesh.origins[name].sent
            for _ in range(40):
                await (await call(stuck, name, f"bytes={BODY}")).answer()
            held = await settled(lambda: mesh.origins[name].sent) - sent
            assert held < 40 * MIB / 2
            for _ in range(3):
                _, body = await (await call(quick, name, f"bytes={2 * MIB}")).answer()
                assert await read_at_least(body, 2 * MIB) == 2 * MIB

    run(test())


async def _read(one: Call) -> int:
    head, body = await one.answer()
    assert head.status == 200
    return await read_at_least(body, MIB)


async def _fill(sink: Sink) -> None:
    for _ in range(BODY // 65536):
        await sink.write(bytes(65536))


@pytest.mark.parametrize("way", ["http1", "http1-tls"])
def test_a_slow_connection_does_not_hold_up_those_that_share_its_upstream(way: str, mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.connect(way) as slow, mesh.connect(way) as quick:
            await (await call(slow, "http2", f"bytes={BODY}")).answer()
            await settled(lambda: mesh.origins["http2"].sent)
            for _ in range(5):
                _, body = await (await call(quick, "http2", f"bytes={2 * MIB}")).answer()
                assert await read_at_least(body, 2 * MIB) == 2 * MIB

    run(test())
