"""The connected proxies, and how a change reaches them.

Changes are debounced: a burst (a folder that is being written) becomes one round, which starts after a
quiet moment and at the latest after a bounded wait. A round computes each proxy's snapshot and has those
streams pushed for which something changed. Nothing is queued per stream: one that cannot be written to now
takes the latest when it can.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from pymesh.control.xds.cache import Snapshot
from pymesh.control.xds.metrics import XdsMetrics
from pymesh.control.xds.node import Node
from pymesh.control.xds.session import Session

log = logging.getLogger(__name__)

#: Computes what a proxy should have. The previous snapshot lets unchanged tables stay the same object.
SnapshotOf = Callable[[Node, Snapshot | None], Snapshot]

#: How long a round goes on until others have a turn. Telling all of a change comes before hearing what they say to it,
#: which costs as much: shorter turns would let the last proxy wait for the acknowledgements of all the others.
TURN_SECONDS: Final = 0.2


def _nothing() -> None:
    """Of a connection that is not yet, or not any more."""


@dataclass(slots=True, eq=False)
class Connection:
    """One stream of one proxy."""

    node: Node
    session: Session
    peer: str
    variant: str
    snapshot: Snapshot
    connected_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: Sends what there is to be sent, as far as that can be done at once. It raises nothing.
    push: Callable[[], None] = _nothing
    #: Set when there is a rest.
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    #: When it ends the proxy has not asked for the endpoints of clusters that it was sent.
    patience: asyncio.TimerHandle | None = None
    #: Names of secrets that it asked for and that are not its own.
    strange: set[str] = field(default_factory=set)
    #: Monotonic time of the oldest change that the proxy was not yet sent.
    changed_at: float | None = None


class Fleet:
    """All connections of this control plane."""

    def __init__(
        self,
        snapshot_of: SnapshotOf,
        metrics: XdsMetrics,
        *,
        gone: Callable[[Node], None] = lambda _: None,
        quiet: float = 0.1,
        longest: float = 1.0,
    ) -> None:
        """``gone`` is told of each proxy that was connected."""
        self._snapshot_of = snapshot_of
        self._gone = gone
        self._metrics = metrics
        self._quiet = quiet
        self._longest = longest
        #: In the order of their coming.
        self._connections: dict[Connection, None] = {}
        self._changed = asyncio.Event()
        self._first_change = self._last_change = 0.0

    def connections(self) -> list[Connection]:
        """The open connections, by node id."""
        return sorted(self._connections, key=lambda c: (c.node.id, c.connected_at))

    def connect(self, node: Node, session: Session, peer: str, variant: str) -> Connection:
        """Register a stream whose proxy is ``node``; it has its snapshot at once."""
        connection = Connection(node, session, peer, variant, self._snapshot_of(node, None))
        session.update(connection.snapshot)
        self._connections[connection] = None
        self._metrics.connected.labels(variant).inc()
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Forget a stream, and at once what was made for it: the call itself is held by its last error, until the
        garbage collector comes.
        """
        self._connections.pop(connection, None)
        connection.push, connection.snapshot = _nothing, {}
        connection.session.end()
        self._gone(connection.node)
        self._metrics.connected.labels(connection.variant).dec()

    def changed(self) -> None:
        """Say that configuration changed; the round follows."""
        self._last_change = time.monotonic()
        if not self._changed.is_set():
            self._first_change = self._last_change
            self._changed.set()

    async def run(self) -> None:
        """Carry changes to the proxies, until cancelled."""
        while True:
            await self._changed.wait()
            while (wait := self._remaining()) > 0:  # noqa: ASYNC110 - each further change prolongs the wait
                await asyncio.sleep(wait)
            since = self._first_change
            self._changed.clear()
            await self.publish(since)

    async def publish(self, since: float) -> None:
        """One round, for a change at monotonic time ``since``."""
        started, updated = time.monotonic(), 0
        turn_ends = time.thread_time() + TURN_SECONDS
        for number, connection in enumerate(list(self._connections), 1):
            if connection not in self._connections:
                continue  # gone while this round yielded
            updated += self._refresh(connection, since)
            if number % 16 == 0 and time.thread_time() >= turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.thread_time() + TURN_SECONDS
        log.info(
            "configuration published",
            extra={
                "proxies": len(self._connections),
                "updated": updated,
                "milliseconds": round((time.monotonic() - started) * 1e3, 1),
            },
        )

    def _refresh(self, connection: Connection, since: float) -> bool:
        try:
            fresh = self._snapshot_of(connection.node, connection.snapshot)
        except Exception:
            # One proxy's failed translation keeps its last good configuration and delays nobody else.
            log.exception("translation failed, the proxy keeps its configuration", extra={"node": connection.node.id})
            return False
        before, connection.snapshot = connection.snapshot, fresh
        if fresh == before:  # the same tables
            return False
        connection.session.update(fresh)
        if connection.changed_at is None:
            connection.changed_at = since
        connection.push()
        return True

    def _remaining(self) -> float:
        now = time.monotonic()
        return min(self._last_change + self._quiet, self._first_change + self._longest) - now
