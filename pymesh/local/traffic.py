"""Requests to a gateway, and what became of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from pymesh.local import http


@dataclass(slots=True)
class Tally:
    """What became of some requests."""

    statuses: Counter[str] = field(default_factory=Counter)
    #: Version of the reviews -> answers that came from it.
    versions: Counter[str] = field(default_factory=Counter)
    first_failure: str = ""

    @property
    def total(self) -> int:
        """Requests that were sent."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """Requests that were not answered with 200."""
        return self.total - self.statuses["200"]

    def share(self, version: str) -> float:
        """Share of the answers that came from a version, 0 to 1."""
        return self.versions[version] / max(self.versions.total(), 1)

    def __sub__(self, earlier: Tally) -> Tally:
        return Tally(self.statuses - earlier.statuses, self.versions - earlier.versions, self.first_failure)

    def copy(self) -> Tally:
        """As it is now."""
        return Tally(self.statuses.copy(), self.versions.copy(), self.first_failure)

    async def request(self, connection: http.Connection, path: str, headers: Mapping[str, str] | None = None) -> None:
        """Send one and count it."""
        try:
            answer = await connection.get(path, headers)
        except http.HttpError as error:
            self.statuses["no answer"] += 1
            self.first_failure = self.first_failure or str(error)
            return
        self.statuses[str(answer.status)] += 1
        if answer.status != 200:
            self.first_failure = self.first_failure or f"{answer.status}: {answer.body[:200]!r}"
            return
        with suppress(ValueError, KeyError, TypeError):
            self.versions[json.loads(answer.body)["reviews"]["version"]] += 1


async def burst(port: int, path: str, count: int, connections: int = 8) -> Tally:
    """Send `count` requests as fast as they are answered."""
    tally = Tally()
    left = iter(range(count))

    async def client() -> None:
        connection = http.Connection(port)
        for _ in left:
            await tally.request(connection, path)
        await connection.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return tally


async def steady(port: int, path: str, per_second: int, tally: Tally, connections: int = 4) -> None:
    """Send requests at a rate until cancelled."""
    gap = connections / per_second

    async def client(number: int) -> None:
        connection = http.Connection(port)
        try:
            await asyncio.sleep(gap * number / connections)
            while True:
                await asyncio.gather(tally.request(connection, path), asyncio.sleep(gap))
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(client(number))
