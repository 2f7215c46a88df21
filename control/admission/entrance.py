"""Who may be connected to the webhooks, and for how long without asking anything.

```text
accepted --> handshake --> waiting for a request --> answered --> waiting ...
             HANDSHAKE     HEAD_SECONDS until its head is whole
```
Anybody who reaches the port can open connections, and only the API server has something to ask: so at most
MOST_CONNECTIONS are open, and where all places are taken whoever has waited longest without a request makes room.
A request that is being answered is never interrupted; while all are, the newcomer is turned away.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

#: An API server has as many as reviews that it asks about at the same time.
MOST_CONNECTIONS: Final = 128
HANDSHAKE_SECONDS: Final = 10.0
HEAD_SECONDS: Final = 10.0
#: After an error of the listening socket, such as that there are no more file descriptors.
_PAUSE_SECONDS: Final = 0.5


@dataclass(slots=True, eq=False)
class _Place:
    """One of the connections."""

    #: Since when nothing is asked; None: a request is being answered.
    idle_since: float | None
    leave: Callable[[], object] = field(default=lambda: None)


class Entrance:
    """Accepts for a uvicorn server, which has no listening socket of its own then."""

    def __init__(
        self,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        turned_away: Callable[[], None],
        *,
        most: int = MOST_CONNECTIONS,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        """``turned_away`` is called for each connection that had to leave for want of a place."""
        self._socket = sock
        self._tls = tls
        self._turned_away = turned_away
        self._most = most
        self._handshake_seconds = handshake_seconds
        self._head_seconds = head_seconds
        self._places: set[_Place] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, server: uvicorn.Server) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        self._socket.setblocking(False)
        try:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(self._socket)
                except OSError:
                    await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                if not self._has_room():
                    self._turned_away()
                    accepted.close()
                    continue
                place = _Place(loop.time())
                self._places.add(place)
                task = loop.create_task(self._admit(server, accepted, place))
                place.leave = task.cancel
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for one in self._tasks:
                one.cancel()

    def _has_room(self) -> bool:
        """Whether there is a place; the longest idle connection leaves for it."""
        if len(self._places) < self._most:
            return True
        idle = [one for one in self._places if one.idle_since is not None]
        if not idle:
            return False
        longest = min(idle, key=lambda one: one.idle_since or 0.0)
        self._places.discard(longest)
        self._turned_away()
        longest.leave()
        return True

    async def _admit(self, server: uvicorn.Server, accepted: socket.socket, place: _Place) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> _Waiting:
            return _Waiting(server, place, self._places, self._head_seconds, loop)

        timeout = self._handshake_seconds if self._tls is not None else None
        try:
            await loop.connect_accepted_socket(protocol, accepted, ssl=self._tls, ssl_handshake_timeout=timeout)
        except OSError:  # ssl.SSLError is one, and so is a handshake that takes too long
            self._places.discard(place)
            accepted.close()
        except BaseException:
            self._places.discard(place)
            accepted.close()
            raise


class _Waiting(H11Protocol):
    """uvicorn's connection, with a deadline for the head of each request."""

    def __init__(
        self,
        server: uvicorn.Server,
        place: _Place,
        places: set[_Place],
        head_seconds: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(server.config, server.server_state, server.lifespan.state, loop)
        self._place = place
        self._places = places
        self._head_seconds = head_seconds
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._place.leave = transport.abort
        self._waits()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever its type says
        if cycle is not None and not cycle.response_complete:
            self._place.idle_since = None
            self._forget_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # A request that was sent ahead has begun already.
        if self.cycle.response_complete:
            self._waits()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        self._places.discard(self._place)
        super().connection_lost(exc)

    def _waits(self) -> None:
        self._forget_deadline()
        self._place.idle_since = self.loop.time()
        self._deadline = self.loop.call_later(self._head_seconds, self.transport.abort)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
