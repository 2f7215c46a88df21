"""Asks many requests over a few connections, and keeps every answer."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tests.differential.asking import Ask

CONNECTIONS = 16
_PATIENCE_S = 30.0


async def ask_all(port: int, asked: Mapping[int, Ask], tls: ssl.SSLContext | None = None) -> dict[int, dict[str, Any]]:
    """What came of each request, by its number."""
    answers: dict[int, dict[str, Any]] = {}
    numbers = iter(asked)

    async def client() -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number in numbers:
            for _ in range(2):
                fresh = streams is None
                if streams is None:
                    streams = await asyncio.open_connection(
                        "127.0.0.1", port, ssl=tls, server_hostname=tls and "mesh.test"
                    )
                try:
                    async with asyncio.timeout(_PATIENCE_S):
                        answers[number], keep = await _exchange(*streams, asked[number], number)
                    break
                except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                    # One that was closed while it was idle says nothing about the request.
                    answers[number], keep = {"aborted": type(error).__name__}, False
                    await _close(streams[1])
                    streams = None
                    if fresh:
                        break
            if not keep and streams is not None:
                await _close(streams[1])
                streams = None
        if streams is not None:
            await _close(streams[1])

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return answers


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Ask, number: int
) -> tuple[dict[str, Any], bool]:
    lines = [f"{ask.method} {ask.target} HTTP/1.1", f"host: {ask.host}", "user-agent: random", f"x-case: {number}"]
    lines += [f"{name}: {value}" for name, value in ask.headers]
    if ask.body or ask.method in ("POST", "PUT"):
        lines.append(f"content-length: {len(ask.body)}")
    writer.write("\r\n".join([*lines, "", ""]).encode() + ask.body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *fields = head[:-4].split("\r\n")
    status = int(first.split(" ")[1])
    headers = [(name.lower(), value.strip()) for name, _, value in (field.partition(":") for field in fields)]
    known = dict(headers)
    body = b""
    if ask.method != "HEAD" and status not in (204, 304):
        if known.get("transfer-encoding") == "chunked":
            while size := int((await reader.readuntil(b"\r\n")), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readuntil(b"\r\n")
        else:
            body = await reader.readexactly(int(known.get("content-length", 0)))
    keep = known.get("connection", "").lower() != "close"
    return {"status": status, "headers": headers, "body": _shown(body)}, keep


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def _shown(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("latin-1")
