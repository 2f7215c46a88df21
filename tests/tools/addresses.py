"""One origin at many addresses of this machine, which says at which of them it was reached.

Consistent hashing needs dozens of endpoints that differ in their addresses only: 127.0.0.1 to 127.0.0.n, on one port.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: The header of the answer that names the address.
HERE = "x-here"


def address(number: int) -> str:
    """The address with this number, from 1 on."""
    return f"127.0.0.{number}"


@contextmanager
def addresses(count: int) -> Iterator[int]:
    """Serve at the first `count` addresses for the length of the block; gives the port."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    servers: list[asyncio.Server] = []

    async def start() -> None:
        first = await asyncio.start_server(_connected, address(1), 0)
        servers.append(first)
        port = first.sockets[0].getsockname()[1]
        for number in range(2, count + 1):
            servers.append(await asyncio.start_server(_connected, address(number), port))
        started.set()

    def run() -> None:
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=run, name="addresses", daemon=True)
    thread.start()
    if not started.wait(10):
        raise RuntimeError("the origin did not start")
    try:
        yield servers[0].sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        for server in servers:
            server.close()
        loop.run_until_complete(_end_tasks())
        loop.close()


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


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
