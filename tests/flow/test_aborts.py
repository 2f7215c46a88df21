"""Who leaves in the middle: the other side learns of it, and never takes what has come for the whole.

That nothing of it stays in the proxy is judged after each test by the fixture.
"""

from __future__ import annotations

import json

import pytest

from tests.flow.mesh import MIB, PAIRS, Connection, Mesh, call, comes, read_at_least, run
from tests.proxy.running import eventually
from tests.tools.wire.message import Aborted, whole


@pytest.mark.parametrize(("way", "name"), PAIRS)
def test_a_client_that_leaves_during_its_upload(way: str, name: str, mesh: Mesh) -> None:
    origin = mesh.origins[name]
    received, aborted, completed = origin.received, origin.aborted, origin.completed

    async def test() -> None:
        async with mesh.connect(way) as connection:
            upload = await call(connection, name, body=True)
            await upload.sink.write(bytes(MIB))
            assert await comes(lambda: origin.received > received)

    run(test())
    assert eventually(lambda: origin.aborted == aborted + 1)
    assert origin.completed == completed


@pytest.mark.parametrize(("way", "name"), PAIRS)
def test_a_client_that_leaves_during_its_download(way: str, name: str, mesh: Mesh) -> None:
    origin = mesh.origins[name]
    aborted, completed = origin.aborted, origin.completed

    async def test() -> None:
        async with mesh.connect(way) as connection:
            _, body = await (await call(connection, name, f"bytes={64 * MIB}")).answer()
            assert await read_at_least(body, MIB) >= MIB

    run(test())
    assert eventually(lambda: origin.aborted == aborted + 1)
    assert origin.completed == completed


@pytest.mark.parametrize(("way", "name"), PAIRS)
def test_a_client_that_leaves_before_the_answer(way: str, name: str, mesh: Mesh) -> None:
    before = len(mesh.origins[name].requests)

    async def test() -> None:
        async with mesh.connect(way) as connection:
            await call(connection, name, "delay=3600")
            assert await comes(lambda: len(mesh.origins[name].requests) == before + 1)

    run(test())


@pytest.mark.parametrize("way", ["http2", "http2-tls"])
@pytest.mark.parametrize("name", ["http2", "http2-tls"])
def test_a_stream_that_is_reset_costs_no_connection(way: str, name: str, mesh: Mesh) -> None:
    origin = mesh.origins[name]

    async def test() -> None:
        async with mesh.connect(way) as connection:
            await _reads_whole(connection, name)
            connections, aborted = origin.connections, origin.aborted
            for _ in range(10):
                download = await call(connection, name, f"bytes={64 * MIB}")
                _, body = await download.answer()
                await read_at_least(body, 1000)
                await download.sink.reset()
            assert await comes(lambda: origin.aborted == aborted + 10)
            await _reads_whole(connection, name)
            assert origin.connections == connections

    run(test())


@pytest.mark.parametrize(("way", "name"), PAIRS)
def test_an_origin_that_leaves_before_its_answer(way: str, name: str, mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.connect(way) as connection:
            head, body = await (await call(connection, name, "reset=before")).answer()
            assert head.status in (502, 503)
            await whole(body)
            await _reads_whole(connection, name)

    run(test())


@pytest.mark.parametrize(("way", "name"), PAIRS)
def test_an_origin_that_leaves_during_its_answer(way: str, name: str, mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.connect(way) as connection:
            # Long enough for the client to have been told of it before the origin leaves.
            head, body = await (await call(connection, name, "reset=after", f"bytes={20 * MIB}")).answer()
            assert head.status == 200
            with pytest.raises(Aborted):
                await whole(body)

    run(test())


async def _reads_whole(connection: Connection, name: str) -> None:
    _, body = await (await call(connection, name)).answer()
    assert json.loads(await whole(body))["origin"] == name
