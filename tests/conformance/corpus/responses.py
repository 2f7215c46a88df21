"""The origin as the attacker: it answers with the octets of a vector; what is the client told, and the one behind it?

`tests/conformance/vectors/responses.toml` has families as `vectors.py` describes them, with `answer` (octets) or
`frames` (`frames.py`) for what the origin says and `close` if it closes then. The outcome is one of

    told = 200       the client gets this status with `body` and, of fields that are not the proxy's own, `fields`
    bad = true       the client gets the proxy's own answer: 502, or the number
    broken = true    that, or an answer that visibly breaks off; `seen = 304` if it is whole before it breaks off

and `kept` says whether the connection to the origin may serve another request afterwards.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11
import hpack
from hyperframe.frame import Frame, HeadersFrame

from tests.conformance.corpus import frames
from tests.conformance.corpus.answers import Answer, FrameReader, decoded, read_answers
from tests.conformance.corpus.vectors import FOLDER, Fields, fill, octets, pairs

_SETTINGS = {
    "name", "why", "x", "method", "answer", "frames", "close", "told", "bad", "broken", "seen", "kept", "body",
    "fields",
}  # fmt: skip
_OUTCOMES = ("told", "bad", "broken")
_OURS = {"server", "date", "content-length", "transfer-encoding", "connection", "x-envoy-upstream-service-time"}
_MARKED = b"marked"
_GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nmarked"
_GOOD_FRAMES: list[frames.Spec] = [{"headers": [":status: 200"]}, {"data": "marked", "end": True}]
_PATIENCE = 30.0


@dataclass(frozen=True)
class Response:
    """What the origin answers, and what is to become of it."""

    id: str
    why: str
    method: str
    octets: bytes
    frames: Sequence[frames.Spec]
    close: bool
    #: `told`, `bad` or `broken`.
    outcome: str
    status: int
    #: A status that the client may be told before it shows that the response is broken.
    seen: int
    body: bytes
    fields: Fields
    kept: bool


def load() -> list[Response]:
    """Every vector, in order."""
    families: list[dict[str, Any]] = tomllib.loads((FOLDER / "responses.toml").read_text())["family"]
    return [
        _response(f"{family['name']}/{name}", family, own if isinstance(own, dict) else {"x": own})
        for family in families
        for name, own in family.pop("vectors").items()
    ]


def _response(name: str, family: Mapping[str, Any], own: Mapping[str, Any]) -> Response:
    unknown = (set(family) | set(own)) - _SETTINGS
    assert not unknown, f"{name}: no such settings: {sorted(unknown)}"
    decides = any(key in own for key in _OUTCOMES)
    merged = {**{key: value for key, value in family.items() if not (decides and key in _OUTCOMES)}, **own}
    (outcome,) = [key for key in _OUTCOMES if key in merged]
    merged = {key: fill(value, merged.get("x", "")) for key, value in merged.items()}
    return Response(
        id=name,
        why=merged["why"],
        method=merged.get("method", "GET"),
        octets=octets(merged.get("answer", "")),
        frames=merged.get("frames", ()),
        close=merged.get("close", False),
        outcome=outcome,
        status=502 if merged[outcome] is True else merged[outcome],
        seen=merged.get("seen", 0),
        body=octets(merged.get("body", "")),
        fields=pairs(merged.get("fields", ())),
        # On a connection of HTTP/2 only the stream is lost.
        kept=merged.get("kept", outcome == "told") or "frames" in merged,
    )


class Attacker:
    """An origin that answers `/NUMBER` with the vector of that number, and anything else as one should."""

    def __init__(self, vectors: Sequence[Response], *, http2: bool) -> None:
        self.vectors = vectors
        self.http2 = http2
        self.port = 0
        #: Targets in order, each with the number of the connection that it came over.
        self.asked: list[tuple[str, int]] = []
        self._connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._connections += 1
        self._writers.add(writer)
        try:
            await (self._http2 if self.http2 else self._http1)(reader, writer, self._connections)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the proxy is done with it
        finally:
            writer.close()
            self._writers.discard(writer)

    def close(self) -> None:
        """End what the proxy keeps for later."""
        for writer in self._writers:
            writer.close()

    async def _http1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            vector = self._vector(head.split(b" ")[1].decode(), connection)
            writer.write(vector.octets if vector else _GOOD)
            await writer.drain()
            if vector and vector.close:
                return

    async def _http2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        encoder, decoder = hpack.Encoder(), hpack.Decoder()
        await reader.readexactly(len(frames.PREFACE))
        writer.write(frames.frame(4, 0, 0, b""))
        while True:
            frame, length = Frame.parse_frame_header(memoryview(await reader.readexactly(9)))
            frame.parse_body(memoryview(await reader.readexactly(length)))
            if isinstance(frame, HeadersFrame):
                vector = self._vector(dict(decoded(decoder, frame.data))[":path"], connection)
                for spec in vector.frames if vector else _GOOD_FRAMES:
                    writer.write(frames.one({"stream": frame.stream_id, **spec}, encoder))
                await writer.drain()

    def _vector(self, target: str, connection: int) -> Response | None:
        self.asked.append((target, connection))
        number = target.removeprefix("/")
        return self.vectors[int(number)] if number.isdigit() else None


@asynccontextmanager
async def attacker(vectors: Sequence[Response], *, http2: bool, port: int) -> AsyncIterator[Attacker]:
    """An attacker that listens, for the length of the block."""
    running = Attacker(vectors, http2=http2)
    server = await asyncio.start_server(running.connected, "127.0.0.1", port)
    running.port = port
    try:
        yield running
    finally:
        server.close()
        running.close()


@dataclass(frozen=True)
class Heard:
    """What the client got, and over which connections the origin was asked."""

    answer: Answer | None
    marked: Answer | None
    asked: list[tuple[str, int]]


async def ask(number: int, vector: Response, port: int, origin: Attacker, *, http2: bool) -> Heard:
    """Ask for the vector's response, then for the marked one over the same client connection."""
    origin.asked.clear()
    async with asyncio.timeout(_PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            found = await (_over_http2 if http2 else _over_http1)(number, vector, reader, writer)
        finally:
            writer.close()
    return Heard(*found, list(origin.asked))


async def _over_http1(
    number: int, vector: Response, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[Answer | None, Answer | None]:
    """Both requests at once: whatever is left of the first response is there when the second is asked for."""
    writer.write(f"{vector.method} /{number} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    writer.write(b"GET /marker HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
    received = b""
    try:
        while piece := await reader.read(65536):
            received += piece
    except ConnectionError:
        pass  # that, too, says that something broke off
    found: list[Answer] = []
    try:
        found.extend(read_answers(received, [vector.method, "GET"]))
    except h11.RemoteProtocolError:
        return None, None  # an answer that breaks off
    return found[0] if found else None, found[1] if len(found) > 1 else None


async def _over_http2(
    number: int, vector: Response, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[Answer | None, Answer | None]:
    encoder, client = hpack.Encoder(), FrameReader(reader)
    writer.write(frames.PREFACE + frames.frame(4, 0, 0, b""))
    writer.write(frames.one({"get": [f":method: {vector.method}", f":path: /{number}"]}, encoder))
    await client.until_over(1)
    writer.write(frames.one({"get": [":path: /marker"], "stream": 3}, encoder))
    await client.until_over(3)
    return client.answer(1), client.answer(3)


def complaints(vector: Response, heard: Heard, target: str, *, http2: bool) -> list[str]:
    """Every way in which the client was told something else than it should, or the next one was."""
    said = []
    got = heard.answer
    if vector.outcome == "told":
        if got is None or (got.status, got.body) != (vector.status, vector.body):
            said.append(f"the client was told {got}")
        else:
            fields = [field for field in got.fields if field[0] not in _OURS]
            if sorted(fields) != sorted(vector.fields):
                said.append(f"the client was told the fields {fields}")
    elif got is None:
        if vector.outcome == "bad":
            said.append("the client got no answer")
    elif got.status == vector.seen and not got.body:
        return []  # without a body there is no end that could be missing
    elif got.status != vector.status:
        said.append(f"the client was told {got}")
    # Over HTTP/1 an answer that breaks off takes its connection with it.
    if got is not None or http2:
        if heard.marked is None or (heard.marked.status, heard.marked.body) != (200, _MARKED):
            said.append(f"the request behind it was told {heard.marked}")
        elif [one for one, _ in heard.asked] != [target, "/marker"]:
            said.append(f"the origin was asked for {heard.asked}")
        elif not vector.kept and len({connection for _, connection in heard.asked}) == 1:
            said.append(f"the connection served another request: {heard.asked}")
    elif heard.marked is not None:
        said.append(f"an answer behind a broken one: {heard.marked}")
    return said
