"""What both versions of HTTP carry: a head, a body that arrives piece by piece, trailers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Headers = Sequence[tuple[str, str]]


class Aborted(ConnectionError):
    """The peer ended the message before it was complete."""


@dataclass(frozen=True)
class Request:
    """A request's head; `headers` has lower-case names and holds no pseudo-headers."""

    method: str
    target: str
    authority: str
    headers: Headers = ()
    scheme: str = "http"

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return first(self.headers, name)


@dataclass(frozen=True)
class Response:
    """A response's head."""

    status: int
    headers: Headers

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return first(self.headers, name)


class Body(Protocol):
    """A message body on its way in."""

    trailers: Headers

    async def read(self) -> bytes:
        """The next piece, empty at the end; raises `Aborted`."""


class Sink(Protocol):
    """A message body on its way out; writing waits while the peer does not take it."""

    async def write(self, data: bytes) -> None:
        """Send a piece."""

    async def end(self, trailers: Headers = (), last: bytes = b"") -> None:
        """The body is complete, with `last`."""

    async def reset(self) -> None:
        """Break the message off in a way that the peer can tell from its end."""


class Exchange(Body, Sink, Protocol):
    """One request at an origin: its head, its body, and the way to answer."""

    request: Request

    async def respond(self, status: int, headers: Headers) -> None:
        """Send the response's head."""


async def whole(body: Body) -> bytes:
    """The complete body."""
    pieces = []
    while piece := await body.read():
        pieces.append(piece)
    return b"".join(pieces)


def first(headers: Headers, name: str) -> str | None:
    """The first value of the header `name`."""
    return next((value for key, value in headers if key == name), None)
