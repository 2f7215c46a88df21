"""Runs an application of pages inside the control plane's event loop: the admin pages, the operator's, the webhooks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette

#: Takes connections for a server until it is cancelled.
Accept = Callable[[uvicorn.Server], Coroutine[Any, Any, None]]


class AdminServer:
    """uvicorn on a bound socket, without its signal handlers: the control plane has its own."""

    def __init__(
        self,
        application: Starlette,
        sock: socket.socket,
        tls: ssl.SSLContext | None = None,
        accept: Accept | None = None,
    ) -> None:
        """``accept`` takes the connections in place of uvicorn; it runs for as long as this serves."""
        config = uvicorn.Config(
            application, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
        )
        config.load()
        config.ssl = tls  # of files alone uvicorn would make one that cannot be renewed
        self._server = _Quiet(config)
        self._sock = sock
        self._accept = accept
        self._accepting: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve in the background."""
        if self._accept is None:
            self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]))
            return
        self._task = asyncio.create_task(self._server.serve(sockets=[]))
        await self._server.is_started.wait()
        self._accepting = asyncio.create_task(self._accept(self._server))

    async def stop(self) -> None:
        """Finish running requests and stop."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Quiet(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_started.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
