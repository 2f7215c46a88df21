"""Servers beside the test that talks to them: an event loop, or accepted connections, in threads of their own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def serving(handlers: Sequence[Handler], context: ssl.SSLContext | None = None) -> Iterator[list[int]]:
    """Each handler on a port of loopback for the length of the block; yields the ports, in their order."""

    async def start() -> list[asyncio.Server]:
        return [await asyncio.start_server(one, "127.0.0.1", 0, ssl=context) for one in handlers]

    with looping(start) as ports:
        yield ports


@contextmanager
def looping(start: Callable[[], Coroutine[Any, Any, Sequence[asyncio.Server]]]) -> Iterator[list[int]]:
    """The servers that `start` makes, for the length of the block; yields their ports, in their order."""
    loop = asyncio.new_event_loop()
    servers = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
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


@contextmanager
def accepting(take: Callable[[socket.socket], None], host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Hands each connection to `take`, in a thread of its own, for the length of the block; yields the port.

    A connection is closed when `take` returns or its peer has gone, and all are when the block ends.
    """
    taken: list[socket.socket] = []

    def talk(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            take(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            taken.append(connection)
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    with socket.create_server((host, port), backlog=128) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in taken:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
