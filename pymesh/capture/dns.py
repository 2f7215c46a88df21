"""The DNS of a mesh without a cluster: names of services, as resolvers with Kubernetes' `search` domains ask for them.

`answer` is a pure function of a query and the table of names; `serve` puts it on UDP and TCP. It is authoritative for
everything: what the table does not have does not exist, for from where it serves there is no way to anybody else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import cast

Table = Mapping[str, Sequence[str]]

TTL_S = 5
PORT = 53
_A, _AAAA, _ANY = 1, 28, 255
_IN = 1
_NOERROR, _FORMERR, _NXDOMAIN, _NOTIMP = 0, 1, 3, 4
_RESPONSE, _AUTHORITATIVE, _TRUNCATED, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
_HEADER = struct.Struct("!HHHHHH")
_QUESTION_END = struct.Struct("!HH")
#: To the name of the question.
_POINTER = b"\xc0\x0c"
_LONGEST_UDP = 512


def search(namespace: str, domain: str = "cluster.local") -> list[str]:
    """The domains in which a workload of a namespace looks for names."""
    return [f"{namespace}.svc.{domain}", f"svc.{domain}", domain]


def answer(query: bytes, table: Table, longest: int = 65535) -> bytes | None:
    """The response to a query; None to what is none. One longer than `longest` is left out and marked as truncated."""
    if len(query) < _HEADER.size:
        return None
    number, flags, questions, _, _, _ = _HEADER.unpack_from(query)
    if flags & _RESPONSE:
        return None
    flags = _RESPONSE | _AUTHORITATIVE | _RECURSION_AVAILABLE | flags & (_RECURSION_DESIRED | 0x7800)
    if flags & 0x7800:
        return _HEADER.pack(number, flags | _NOTIMP, 0, 0, 0, 0)
    asked = _question(query) if questions == 1 else None
    if asked is None:
        return _HEADER.pack(number, flags | _FORMERR, 0, 0, 0, 0)
    name, kind, klass, end = asked
    question = query[_HEADER.size : end]
    found = table.get(name) if klass in (_IN, _ANY) else None
    if found is None:
        return _HEADER.pack(number, flags | _NXDOMAIN, 1, 0, 0, 0) + question
    records = [one for address in found if (one := _record(address, kind)) is not None]
    response = _HEADER.pack(number, flags, 1, len(records), 0, 0) + question + b"".join(records)
    if len(response) > longest:
        return _HEADER.pack(number, flags | _TRUNCATED, 1, 0, 0, 0) + question
    return response


def _question(query: bytes) -> tuple[str, int, int, int] | None:
    """Name in lower case, type, class, and where the question ends."""
    labels, at = [], _HEADER.size
    while at < len(query) and (length := query[at]):
        # A pointer has nowhere to point to in the first name.
        if length > 63 or at + 1 + length > len(query):
            return None
        labels.append(query[at + 1 : at + 1 + length])
        at += 1 + length
    end = at + 1 + _QUESTION_END.size
    if end > len(query) or sum(len(one) + 1 for one in labels) > 254:
        return None
    kind, klass = _QUESTION_END.unpack_from(query, at + 1)
    return b".".join(labels).decode("latin-1").lower(), kind, klass, end


def _record(address: str, kind: int) -> bytes | None:
    parsed = ipaddress.ip_address(address)
    own = _A if parsed.version == 4 else _AAAA
    if kind not in (own, _ANY):
        return None
    return _POINTER + struct.pack("!HHIH", own, _IN, TTL_S, len(parsed.packed)) + parsed.packed


class Server:
    """The responder at an address, over UDP and TCP."""

    def __init__(self, table: Callable[[], Table]) -> None:
        self._table = table
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    async def start(self, address: str, port: int = PORT) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._connection, address, port)
        bound = self._tcp.sockets[0].getsockname()[1]
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._table), local_addr=(address, bound))

    @property
    def port(self) -> int:
        """Where it serves."""
        assert self._tcp is not None
        number: int = self._tcp.sockets[0].getsockname()[1]
        return number

    def close(self) -> None:
        """Stop."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            while True:
                async with asyncio.timeout(10):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    response = answer(await reader.readexactly(length), self._table())
                    if response is None:
                        break
                    writer.write(struct.pack("!H", len(response)) + response)
                    await writer.drain()
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, table: Callable[[], Table]) -> None:
        self._table = table
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        response = answer(data, self._table(), _LONGEST_UDP)
        if response is not None and self._transport is not None:
            self._transport.sendto(response, addr)
