"""Runs an application of pages inside the control plane's event loop: the admin pages, the operator's, the webhooks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette


class AdminServer:
    """uvicorn on a bound socket, without its signal handlers: the control plane has its own."""

    def __init__(self, application: Starlette, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            application, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
        )
        config.load()
        config.ssl = tls  # of files alone uvicorn would make one that cannot be renewed
        self._server = _Quiet(config)
        self._sock = sock
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve in the background."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]))

    async def stop(self) -> None:
        """Finish running requests and stop."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
