"""Every response vector, from origins of HTTP/1 and HTTP/2 to clients of both: what they are told, and the next one."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.corpus.responses import Heard, Response, ask, attacker, complaints, load
from tests.proxy.bootstrap import bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import ours
from tests.tools.ports import free_ports

VECTORS = load()
CLIENTS = {"http1": False, "http2": True}


@pytest.fixture(scope="module")
def heard() -> dict[tuple[str, str], Heard]:
    """What the clients heard, by client and vector; asked one by one, so that nobody else takes the connection."""
    port, port2, origin, origin2, admin = free_ports(5)
    hosts = {name: [virtual_host("all", [to_cluster(name)])] for name in ("http1", "http2")}
    config = bootstrap(
        [http_listener(port, hosts["http1"]), http_listener(port2, hosts["http2"], name="http2")],
        [cluster("http1", [origin]), cluster("http2", [origin2], http2=True)],
        admin,
    )

    async def play() -> dict[tuple[str, str], Heard]:
        found = {}
        async with (
            attacker(VECTORS, http2=False, port=origin) as plain,
            attacker(VECTORS, http2=True, port=origin2) as multiplexed,
        ):
            for number, vector in enumerate(VECTORS):
                side, server = (port2, multiplexed) if vector.frames else (port, plain)
                for client, http2 in CLIENTS.items():
                    found[client, vector.id] = await ask(number, vector, side, server, http2=http2)
        return found

    with ours(config):
        return asyncio.run(play())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_response(vector: Response, client: str, heard: dict[tuple[str, str], Heard]) -> None:
    target = f"/{VECTORS.index(vector)}"
    said = complaints(vector, heard[client, vector.id], target, http2=CLIENTS[client])
    assert not said, "\n".join([vector.why, *said])
