"""An HTTP/1.1 origin that takes its time as it is told, and writes down how long it took by its own clock."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from tests.tools.serving import serving

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Delayed:
    """Answers its n-th request after `delay(n)` seconds."""

    def __init__(self, delay: Callable[[int], float]) -> None:
        self._delay = delay
        self.port = 0
        self.asked = 0
        #: Seconds from a request's arrival until its answer was written.
        self.took: list[float] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                came, number = time.monotonic(), self.asked
                self.asked += 1
                if delay := self._delay(number):
                    await asyncio.sleep(delay)
                writer.write(_ANSWER)
                self.took.append(time.monotonic() - came)
        writer.close()

    def percentile(self, percent: float) -> float:
        """Of the delays as they were, in milliseconds."""
        ordered = sorted(self.took)
        return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1] * 1000


class Stalling:
    """Answers at once, but for one stretch of time after so many requests, in which it answers nobody."""

    def __init__(self, after: int, seconds: float) -> None:
        self.after, self.seconds = after, seconds
        self.port = 0
        self.asked = 0
        #: Requests that the stall held up.
        self.held = 0
        self._until = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                if self.asked == self.after:
                    self._until = time.monotonic() + self.seconds
                if (left := self._until - time.monotonic()) > 0:
                    self.held += 1
                    await asyncio.sleep(left)
                writer.write(_ANSWER)
        writer.close()


_Origin = TypeVar("_Origin", Delayed, Stalling)


@contextmanager
def on_loopback(origin: _Origin) -> Iterator[_Origin]:
    """The origin, for the length of the block."""
    with serving([origin.serve]) as [port]:
        origin.port = port
        yield origin
