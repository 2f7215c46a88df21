"""A server's loop in a thread of its own, beside the test that talks to it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def serving(handlers: Sequence[Handler], context: ssl.SSLContext | None = None) -> Iterator[list[int]]:
    """Each handler on a port of loopback for the length of the block; yields the ports, in their order."""
    loop = asyncio.new_event_loop()
    servers = [loop.run_until_complete(asyncio.start_server(one, "127.0.0.1", 0, ssl=context)) for one in handlers]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield [server.sockets[0].getsockname()[1] for server in servers]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        for server in servers:
            server.close()
        loop.run_until_complete(_end_tasks())
        loop.close()


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
