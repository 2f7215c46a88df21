"""A WebSocket client (RFC 6455) as small as scenarios need it: open, say one text message, hear one, close."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Mapping

from pymesh.local.http import MAX_BODY, Answer, Client, head, read_answer
from pymesh.local.plan import ADDRESS

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE = 1, 2, 8
_FINAL = 0x80
_MASKED = 0x80


class Connection(Client):
    """What opens a WebSocket for each message: their answers are told by status 101, the message by the body."""

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Open it at `path`, send `body` as text, and give what comes back."""
        return await super().request("WebSocket", path, headers, body)

    async def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        reader, writer = await self._open()
        try:
            key = base64.b64encode(os.urandom(16)).decode()
            fields = {"host": f"{ADDRESS}:{self._port}"} | {name.lower(): value for name, value in headers.items()}
            fields |= {"connection": "Upgrade", "upgrade": "websocket"}
            fields |= {"sec-websocket-version": "13", "sec-websocket-key": key}
            writer.write(head("GET", path, fields))
            answer = await read_answer(reader, "GET")
            if answer.status != 101:
                return answer
            if answer.headers.get("sec-websocket-accept") != accept(key):
                raise ValueError("the server has accepted another key")
            writer.write(_frame(_TEXT, body))
            said = await _message(reader)
            writer.write(_frame(_CLOSE, b""))
            await writer.drain()
            return Answer(answer.status, answer.headers, said)
        finally:
            await self.close()


def accept(key: str) -> str:
    """What a server says to a client's key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode()).digest()).decode()


def _frame(kind: int, body: bytes) -> bytes:
    """A whole message, masked as a client must."""
    size, more = (len(body), b"") if len(body) < 126 else (127, len(body).to_bytes(8))
    mask = os.urandom(4)
    masked = bytes(octet ^ mask[at % 4] for at, octet in enumerate(body))
    return bytes([_FINAL | kind, _MASKED | size]) + more + mask + masked


async def _message(reader: asyncio.StreamReader) -> bytes:
    """The next text or binary message in one frame."""
    while True:
        first, second = await reader.readexactly(2)
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
        if size > MAX_BODY:
            raise ValueError(f"a message of {size} octets")
        body = await reader.readexactly(size)
        kind = first & 0x0F
        if kind in (_TEXT, _BINARY):
            if not first & _FINAL:
                raise ValueError("a message in several frames")
            return body
        if kind == _CLOSE:
            raise ValueError("the server has closed the WebSocket")
