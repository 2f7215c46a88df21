"""Octets that a client sends into a tunnel before there is one: held back, then the tunnel's, or nobody's.

Behind each request for a tunnel the client sends what looks like another request. The origin, which is scripted, tells
what has come before its answer (nothing may) and after it: those octets if the vector `opens` the tunnel, else none.
`told` is the status that the client gets.
"""

from __future__ import annotations

import asyncio
import tomllib
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conformance.corpus.answers import read_answers
from tests.conformance.corpus.vectors import FOLDER, fill, octets
from tests.proxy.bootstrap import bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import ours
from tests.tools.ports import free_ports
from tests.tools.wire.http1 import close

EARLY = b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"
# As long as the origin waits for what must not come, and a client for what need not.
_QUIET = 0.1


@dataclass(frozen=True)
class Tunnel:
    """A request for a tunnel, what the origin answers, and what is to become of the octets behind it."""

    id: str
    why: str
    send: bytes
    answer: bytes
    told: int
    opens: bool


def _load() -> list[Tunnel]:
    families: list[dict[str, Any]] = tomllib.loads((FOLDER / "tunnels.toml").read_text())["family"]
    found = []
    for family in families:
        for name, own in family.pop("vectors").items():
            merged = {"opens": False, **family, **own}
            table = {key: fill(value, merged.get("x", "")) for key, value in merged.items()}
            send, answer = octets(table["send"]), octets(table["answer"])
            found.append(Tunnel(f"{family['name']}/{name}", table["why"], send, answer, table["told"], table["opens"]))
    return found


VECTORS = _load()


@dataclass
class Heard:
    """What came behind the request, before and after the origin's answer, and what the client got."""

    before: bytes = b""
    after: bytes = b""
    requests: int = 0
    received: bytes = b""


@pytest.fixture(scope="module")
def heard() -> dict[str, Heard]:
    """Play all, each with an origin of its own."""
    ports = free_ports(2 * len(VECTORS) + 1)
    listening, origins, admin = ports[: len(VECTORS)], ports[len(VECTORS) : -1], ports[-1]
    listeners, clusters = [], []
    for port, origin, vector in zip(listening, origins, VECTORS, strict=True):
        connect = {"match": {"connect_matcher": {}}, "route": {"cluster": vector.id}}
        hosts = [virtual_host("all", [connect, to_cluster(vector.id)])]
        upgrades = [{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}]
        options = {"accept_http_10": True}
        listeners.append(
            http_listener(port, hosts, name=vector.id, upgrade_configs=upgrades, http_protocol_options=options)
        )
        clusters.append(cluster(vector.id, [origin]))

    async def run() -> dict[str, Heard]:
        jobs = [_play(*one) for one in zip(VECTORS, listening, origins, strict=True)]
        return dict(zip((vector.id for vector in VECTORS), await asyncio.gather(*jobs), strict=True))

    with ours(bootstrap(listeners, clusters, admin)):
        return asyncio.run(asyncio.wait_for(run(), 120))


async def _play(vector: Tunnel, port: int, origin: int) -> Heard:
    heard = Heard()
    done = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        heard.requests += 1
        heard.before += await _quiet(reader)
        writer.write(vector.answer)
        if not vector.opens:
            heard.after += await _quiet(reader)
        else:
            heard.after += await reader.readexactly(len(EARLY))
            heard.after += await _quiet(reader)
        await close(writer)
        done.set()

    async with await asyncio.start_server(connected, "127.0.0.1", origin):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(vector.send + EARLY)
        try:
            heard.received = await reader.read(-1)
        except ConnectionError:
            pass
        await close(writer)
        await done.wait()
    return heard


async def _quiet(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side is silent for a while."""
    found = b""
    try:
        while piece := await asyncio.wait_for(reader.read(65536), _QUIET):
            found += piece
    except (TimeoutError, ConnectionError):
        pass
    return found


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_tunnel(vector: Tunnel, heard: dict[str, Heard]) -> None:
    got = heard[vector.id]
    # To a client of HTTP/1.0 in its own version.
    assert got.received.startswith((b"HTTP/1.1 %d " % vector.told, b"HTTP/1.0 %d " % vector.told)), vector.why
    if not vector.opens:
        assert len(list(read_answers(got.received, [vector.send.split(b" ")[0].decode()]))) == 1, vector.why
    assert (got.before, got.after) == (b"", EARLY if vector.opens else b""), vector.why
    assert got.requests == 1, vector.why
