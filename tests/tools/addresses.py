"""One origin at many addresses of this machine, which says at which of them it was reached.

Consistent hashing needs dozens of endpoints that differ in their addresses only: 127.0.0.1 to 127.0.0.n, on one port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from tests.tools.serving import looping

#: The header of the answer that names the address.
HERE = "x-here"


def address(number: int) -> str:
    """The address with this number, from 1 on."""
    return f"127.0.0.{number}"


@contextmanager
def addresses(count: int) -> Iterator[int]:
    """Serve at the first `count` addresses for the length of the block; gives the port."""

    async def start() -> list[asyncio.Server]:
        first = await asyncio.start_server(_connected, address(1), 0)
        port = first.sockets[0].getsockname()[1]
        numbers = range(2, count + 1)
        return [first, *[await asyncio.start_server(_connected, address(number), port) for number in numbers]]

    with looping(start) as ports:
        yield ports[0]


async def _connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    here = writer.get_extra_info("sockname")[0]
    answer = f"HTTP/1.1 200 OK\r\n{HERE}: {here}\r\ncontent-length: 0\r\n\r\n".encode()
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
