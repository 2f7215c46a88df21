"""WebSocket (RFC 6455) in small: an endpoint that echoes, and a client that ends in order."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct

_TEXT, _CLOSE = 0x1, 0x8
_FIN, _MASKED = 0x80, 0x80
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection at the endpoint."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        (key,) = [line.split(b":")[1].strip() for line in head.split(b"\r\n") if b"sec-websocket-key" in line.lower()]
        answer = [
            b"HTTP/1.1 101 Switching Protocols",
            b"connection: upgrade",
            b"upgrade: websocket",
            b"sec-websocket-accept: " + _accept(key),
        ]
        writer.write(b"\r\n".join(answer) + b"\r\n\r\n")
        while True:
            kind, data = await _receive(reader)
            writer.write(_frame(kind, data))
            if kind == _CLOSE:
                break
    except (OSError, asyncio.IncompleteReadError):
        pass  # the client has seen it
    finally:
        writer.close()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def open(self, path: str, *fields: str) -> None:
        """The handshake, with more header fields."""
        key = base64.b64encode(os.urandom(16))
        self._writer.write(
            b"GET " + path.encode() + b" HTTP/1.1\r\nhost: load.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: "
            + key
            + b"\r\n"
            + b"".join(field.encode() + b"\r\n" for field in fields)
            + b"\r\n"
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 ") or _accept(key) not in head:
            raise ConnectionError(head.decode())

    async def echo(self, text: bytes) -> None:
        """Say something and hear it."""
        self._writer.write(_frame(_TEXT, text, mask=os.urandom(4)))
        if (answer := await _receive(self._reader)) != (_TEXT, text):
            raise ConnectionError(f"said {text!r}, heard {answer!r}")

    async def close(self) -> None:
        """The closing handshake."""
        self._writer.write(_frame(_CLOSE, struct.pack("!H", 1000), mask=os.urandom(4)))
        kind, _ = await _receive(self._reader)
        self._writer.close()
        if kind != _CLOSE:
            raise ConnectionError("no closing handshake")

    async def end(self) -> bytes:
        """What still comes before the other side ends it."""
        rest = await self._reader.read()
        self._writer.close()
        return rest


def _accept(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())


def _frame(kind: int, data: bytes, mask: bytes = b"") -> bytes:
    assert len(data) < 126
    head = bytes([_FIN | kind, len(data) | (_MASKED if mask else 0)])
    return head + mask + (_unmask(data, mask) if mask else data)


async def _receive(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, length = await reader.readexactly(2)
    mask = await reader.readexactly(4) if length & _MASKED else bytes(4)
    return first & 0x0F, _unmask(await reader.readexactly(length & 0x7F), mask)


def _unmask(data: bytes, mask: bytes) -> bytes:
    return bytes(octet ^ mask[at % 4] for at, octet in enumerate(data))
