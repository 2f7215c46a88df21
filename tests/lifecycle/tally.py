"""What became of every request, and what counts as lost.

A request is lost when it was sent on a connection and got no complete answer, unless the protocol itself had said that
it would not be looked at: it is above the last stream of a GOAWAY, or refused with REFUSED_STREAM. Nobody retries
anything else. A connection that is refused, or that ends while nothing is asked on it, costs no request.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from contextlib import suppress


class Told(Exception):
    """The proxy has not looked at the request, and said so."""


class Tally:
    """The ports to ask at, and the outcomes by kind of client."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.completed: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.lost: list[str] = []
        self.over = False
        self.chance = random.Random(1)
        self._turns = itertools.count()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the first that takes one, beginning with another port each time."""
        for _ in range(1_000):
            port = self.ports[next(self._turns) % len(self.ports)]
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.02)
        raise RuntimeError(f"nobody listens on any of {self.ports}")

    async def pause(self, longest: float) -> None:
        """Time that a client does something else."""
        await asyncio.sleep(self.chance.uniform(0, longest))

    def done(self, kind: str) -> None:
        """An answer was complete."""
        self.completed[kind] += 1

    def refused(self, kind: str) -> None:
        """See :class:`Told`."""
        self.told[kind] += 1

    def lose(self, kind: str, why: object) -> None:
        """See the module."""
        self.lost.append(f"{kind}: {why!r}")
