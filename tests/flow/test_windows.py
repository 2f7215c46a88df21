"""Streams that end with octets nobody took: what they held of their connection's window has to come back.

One leak of a window is invisible; after enough of them the connection stands still. So each case happens often enough
on one and the same connection to have used the proxy's window several times over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.flow.mesh import MIB, WAYS, Mesh, call, read_at_least, run, settled
from tests.tools.wire import http2
from tests.tools.wire.message import Request

TIMES = 24
BODY = 200_000


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("length", [BODY, 8 * MIB], ids=["answered whole", "answered in part"])
def test_answers_that_are_cancelled(name: str, length: int, mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.connect("http2") as connection:
            assert isinstance(connection, http2.Connection)
            for _ in range(TIMES // 4):
                streams = [await call(connection, name, f"bytes={length}") for _ in range(4)]
                await settled(lambda: mesh.origins[name].sent, 0.05)
                for one in streams:
                    await one.sink.reset()
            # What the client itself had not read of them counts on its own window.
            connection.protocol.increment_flow_control_window(4 * MIB)
            await connection.flush()
            _, body = await (await call(connection, name, f"bytes={4 * MIB}")).answer()
            assert await read_at_least(body, 4 * MIB) == 4 * MIB

    run(test())


@pytest.mark.parametrize("name", WAYS)
def test_uploads_that_are_cancelled(name: str, mesh: Mesh) -> None:
    async def unwanted(connection: http2.Connection) -> None:
        one = await call(connection, name, "stall", body=True)
        await one.sink.write(bytes(BODY))
        await one.sink.reset()

    _often(mesh, name, unwanted)


@pytest.mark.parametrize("name", WAYS)
def test_uploads_that_the_origin_breaks_off(name: str, mesh: Mesh) -> None:
    async def unwanted(connection: http2.Connection) -> None:
        one = await call(connection, name, "reset=before", "delay=0.02", body=True)
        await one.sink.write(bytes(BODY))
        await one.sink.end()
        assert (await one.answer())[0].status in (502, 503)

    _often(mesh, name, unwanted)


def test_uploads_that_the_proxy_itself_answers(mesh: Mesh) -> None:
    async def unwanted(connection: http2.Connection) -> None:
        stream = await connection.send(Request("POST", "/nowhere", "localhost"))
        await stream.write(bytes(60_000))
        await stream.end()
        head, body = await stream.receive()
        assert head.status == 404
        await read_at_least(body, MIB)

    _often(mesh, "http1", unwanted)


def _often(mesh: Mesh, name: str, unwanted: Callable[[http2.Connection], Awaitable[None]]) -> None:
    async def test() -> None:
        async with mesh.connect("http2") as connection:
            assert isinstance(connection, http2.Connection)
            for _ in range(TIMES):
                await unwanted(connection)
            one = await call(connection, name, body=True)
            await one.sink.write(bytes(4 * MIB))
            await one.sink.end()
            assert (await one.answer())[0].status == 200

    run(test())
