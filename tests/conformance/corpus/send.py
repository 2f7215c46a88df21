"""Play vectors: each on a connection of its own, with a marked request behind it, many at a time.

The connection comes from a loopback address that no other one has, so that the proxy's log and `x-forwarded-for` say
which vector a request belongs to, whatever became of the octets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h11
import hpack

from tests.conformance.corpus import frames
from tests.conformance.corpus.answers import Answer, FrameReader, read_answers
from tests.conformance.corpus.vectors import Vector

MARKER = "/marker"
_MARKED = b"GET /marker HTTP/1.1\r\nHost: marker.test\r\nConnection: close\r\n\r\n"
_PATIENCE = 30.0
_AT_ONCE = 48


@dataclass
class Told:
    """What the client was told: answers in order, and how it ended."""

    answers: list[Answer] = field(default_factory=list)
    #: HTTP/2: error codes of the vector's stream and of the connection.
    reset: str = ""
    goaway: str = ""
    #: `closed`, or `open` if the client had what it waited for; else what went wrong.
    end: str = ""

    @property
    def statuses(self) -> list[int]:
        """The status of each answer."""
        return [answer.status for answer in self.answers]

    def origin_said(self, index: int) -> dict[str, Any]:
        """The report that an origin has answered with."""
        report: dict[str, Any] = json.loads(self.answers[index].body)
        return report


def play(
    vectors: Sequence[Vector], lanes: Mapping[str, int], is_for: Callable[[Vector, str], bool]
) -> dict[tuple[str, str], Told]:
    """Every vector to every port it is for; `lanes` has the ports by name, the result is by name and vector."""

    async def run() -> dict[tuple[str, str], Told]:
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(vector: Vector, octets: bytes, name: str, address: str) -> tuple[tuple[str, str], Told]:
            async with room:
                return (name, vector.id), await _play(vector, octets, lanes[name], address)

        played = []
        for number, vector in enumerate(vectors):
            octets = frames.octets(vector.frames) if vector.is_http2 else vector.octets
            for lane, name in enumerate(lanes):
                if is_for(vector, name):
                    played.append(one(vector, octets, name, source(lane, number)))
        return dict(await asyncio.gather(*played))

    return asyncio.run(run())


def source(lane: int, number: int) -> str:
    """The loopback address that one vector comes from."""
    return f"127.{64 + lane}.{number // 250}.{number % 250 + 1}"


async def _play(vector: Vector, octets: bytes, port: int, address: str) -> Told:
    told = Told()
    try:
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            try:
                writer.write(octets)
                await (_http2 if vector.is_http2 else _http1)(vector, reader, writer, told)
            finally:
                writer.close()
    except TimeoutError:
        told.end = "nothing more came"
    except (h11.RemoteProtocolError, hpack.HPACKError) as error:
        told.end = f"not HTTP: {error}"
    return told


async def _http1(vector: Vector, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: Told) -> None:
    if vector.eof:
        writer.write_eof()
    else:
        writer.write(_MARKED)
    received = b""
    try:
        await writer.drain()
        while piece := await reader.read(65536):
            received += piece
    except ConnectionError:
        pass  # a close with unread input is a reset
    told.end = "closed"
    methods = [request.method for request in vector.forwarded] or [vector.octets.split(b" ")[0].decode("latin-1")]
    told.answers = list(read_answers(received, methods))


async def _http2(vector: Vector, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: Told) -> None:
    client = FrameReader(reader)
    await client.until_over(vector.stream, frames.MARKED, or_goaway=vector.closes)
    told.end = "closed" if client.closed else "open"
    told.reset, told.goaway = client.resets.get(vector.stream, ""), client.goaway
    told.answers = client.answers()
