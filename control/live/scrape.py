"""A proxy's pages, fetched: where they are, and one bounded GET.

A proxy tells the port in its node's metadata, by the key that Istio's agent uses, and is asked at the address that its
stream comes from: it can lead the control plane nowhere but to itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import h11
import msgspec

from pymesh.control.xds.fleet import Connection

PATH: Final = "/stats/prometheus"
#: How far it is with what it was sent; of our proxies alone.
SYNC_PATH: Final = "/config_sync"
PORT_KEY: Final = "ENVOY_PROMETHEUS_PORT"
#: A page of 300 destinations is about 3 MiB.
LARGEST_PAGE: Final = 32 << 20
PATIENCE_SECONDS: Final = 2.0


class ScrapeError(Exception):
    """There is no page, and why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a page is."""

    host: str
    port: int


def target(connection: Connection) -> Target:
    """Where a connected proxy's page is. Raises :class:`ScrapeError` if it does not tell."""
    told = connection.node.metadata.get(PORT_KEY)
    try:
        port = int(told)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ScrapeError(f"node metadata {PORT_KEY} does not say where its metrics are") from None
    host = connection.peer.rpartition(":")[0]
    if not 0 < port < 65536 or not host:
        raise ScrapeError(f"node metadata {PORT_KEY} {told!r} is no port")
    return Target(host, port)


async def fetch(where: Target, path: str = PATH) -> str:
    """A page, that of metrics if no other is named. Raises :class:`ScrapeError`."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection(where.host, where.port)
            try:
                return await _exchange(reader, writer, where, path)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except TimeoutError:
        raise ScrapeError(f"no answer within {PATIENCE_SECONDS:.0f} s") from None
    except (OSError, h11.RemoteProtocolError) as error:
        raise ScrapeError(f"{path}: {error}") from error


class _Refused(msgspec.Struct):
    name: str
    problems: list[str]


class _Taken(msgspec.Struct):
    nonce: str | None
    warming: list[str]
    rejected: list[_Refused]


class _Own(msgspec.Struct):
    generation: int
    workers: list[int]
    unbound: list[str]
    types: dict[str, _Taken]


def own(text: str) -> Mapping[str, Any]:
    """A page `/config_sync`. Raises :class:`ScrapeError` if it is something else: a proxy may say anything."""
    try:
        found: Mapping[str, Any] = msgspec.to_builtins(msgspec.json.decode(text, type=_Own))
    except msgspec.MsgspecError as error:
        raise ScrapeError(f"{SYNC_PATH}: {error}") from None
    return found


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: Target, path: str) -> str:
    host = f"[{where.host}]" if ":" in where.host else where.host
    http = h11.Connection(h11.CLIENT)
    fields = [("host", f"{host}:{where.port}"), ("connection", "close")]
    writer.write(http.send(h11.Request(method="GET", target=path, headers=fields)) or b"")
    writer.write(http.send(h11.EndOfMessage()) or b"")
    await writer.drain()
    body = bytearray()
    while True:
        match http.next_event():
            case h11.NEED_DATA:
                http.receive_data(await reader.read(1 << 16))
            case h11.Response(status_code=status) if status != 200:
                raise ScrapeError(f"{path}: status {status}")
            case h11.Data(data=data):
                body += data
                if len(body) > LARGEST_PAGE:
                    raise ScrapeError(f"{path}: more than {LARGEST_PAGE >> 20} MiB")
            case h11.EndOfMessage() | h11.ConnectionClosed():
                return body.decode("utf-8", "replace")
