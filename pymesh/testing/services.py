"""Applications of a simulated mesh: Python callables behind their proxies."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pymesh.simulated.http1 import Http1Server, Respond
from pymesh.simulated.messages import Answered, Asked, Fields, Pairs
from pymesh.simulated.network import Wire
from pymesh.testing.tasks import Pending, drive

if TYPE_CHECKING:
    from pymesh.testing.mesh import Mesh

#: What an application passes on, so that the mesh sees what belongs together.
_PASSED_ON = ("x-request-id", "traceparent", "tracestate")


class HangUpError(Exception):
    """Raised by a handler: the connection is closed, without an answer."""


class Incoming:
    """A request at an application, and what its handler may do."""

    def __init__(self, mesh: Mesh, place: str, asked: Asked) -> None:
        self._mesh = mesh
        #: The workload that has got it.
        self.place = place
        self.asked = asked
        self.method = asked.method
        self.path = asked.path
        self.authority = asked.authority
        self.headers = asked.headers
        self.body = asked.body

    def sleep(self, seconds: float) -> Pending[None]:
        """Let (virtual) time pass."""
        pending: Pending[None] = Pending()
        self._mesh.after(seconds, lambda: pending.resolve(None))
        return pending

    def hang(self) -> Pending[None]:
        """Never go on."""
        return Pending()

    def get(self, url: str, **options: Any) -> Pending[Answered]:
        """Ask another service, through the workload's proxy."""
        return self.send("GET", url, **options)

    def send(self, method: str, url: str, *, headers: Pairs = (), **options: Any) -> Pending[Answered]:
        """Ask another service, through the workload's proxy. It is sent at once; await the answer."""
        given = Fields(headers)
        passed = [(name, self.headers[name]) for name in _PASSED_ON if name in self.headers and name not in given]
        return self._mesh.ask(method, url, self.place, headers=[*given.items(), *passed], **options)


Given = Answered | bytes | str | int | dict[str, Any] | list[Any] | None
Handler = Callable[[Incoming], Given | Awaitable[Given]]
"""An answer, a body (bytes or text), a status, or what becomes JSON; or a coroutine that gives one of these."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request that has reached an application."""

    #: Seconds since the mesh began.
    time: float
    place: str
    asked: Asked


@dataclass(eq=False, slots=True)
class Application:
    """One workload's application."""

    mesh: Mesh
    place: str
    handler: Handler
    #: Seconds by which each of its answers is late.
    slow: float = 0.0
    #: In place of its handler's answers.
    fails: int | None = None
    is_down: bool = False
    _connections: dict[Http1Server, None] = field(default_factory=dict)
    _running: dict[Pending[Given], None] = field(default_factory=dict)

    def accept(self, peer: Wire) -> Http1Server:
        """A connection of a proxy's."""
        server = Http1Server(peer, self._handle)
        self._connections[server] = None
        return server

    def crash(self) -> None:
        """Everything under way is lost."""
        self.is_down = True
        for running in list(self._running):
            running.fail(HangUpError())
        for server in self._connections:
            server.lose()
        self._connections.clear()

    def _handle(self, asked: Asked, respond: Respond) -> None:
        self.mesh.arrived(Received(self.mesh.now, self.place, asked))
        done: Pending[Given] = Pending()
        self._running[done] = None
        done.then(lambda: self._answer(asked, done, respond))
        if self.slow:
            self.mesh.after(self.slow, lambda: self._run(asked, done))
        else:
            self._run(asked, done)

    def _run(self, asked: Asked, done: Pending[Given]) -> None:
        if done.is_done:
            return
        if self.fails is not None:
            done.resolve(self.fails)
            return
        try:
            given = self.handler(Incoming(self.mesh, self.place, asked))
        except Exception as error:
            done.fail(error)
            return
        if inspect.iscoroutine(given):
            drive(given, done)
        else:
            done.resolve(given)  # type: ignore[arg-type]

    def _answer(self, asked: Asked, done: Pending[Given], respond: Respond) -> None:
        self._running.pop(done, None)
        if self.is_down:
            return
        if isinstance(done.error, HangUpError):
            self.mesh.note(f"{self.place} hangs up on {asked.method} {asked.path}")
            respond(None)
            return
        if done.error is not None:
            self.mesh.broken(self.place, done.error)
            respond(Answered(500, body=b"the application has failed\n"))
            return
        try:
            answered = _answered(done.result())
        except TypeError as error:
            self.mesh.broken(self.place, error)
            answered = Answered(500, body=b"the application has failed\n")
        self.mesh.note(f"{self.place} answers {asked.method} {asked.path} with {answered.status}")
        respond(answered)


def _answered(given: Given) -> Answered:
    match given:
        case Answered():
            return given
        case None:
            return Answered()
        case bytes():
            return Answered(body=given)
        case str():
            return Answered(body=given.encode())
        case int():
            return Answered(given)
        case dict() | list():
            return Answered(200, {"content-type": "application/json"}, json.dumps(given).encode())
    raise TypeError(f"a handler gives an answer, a body, a status or JSON, not {type(given).__name__}")
