"""The clock of the live picture: reads every proxy's page once a second, for as long as somebody looks.

Invariants. Nothing runs and nothing is remembered while nobody looks and nobody has looked for a while. A round begins
when the one before has ended, and rests for longer than it took, so that a large mesh costs a bounded share of a core.
Nothing is queued for those who look: each is told of the newest picture, and takes it when it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pymesh.control.live import scrape
from pymesh.control.live.graph import State, picture
from pymesh.control.live.inventory import Inventory, Known, KnownService, described
from pymesh.control.live.samples import Growth, Page
from pymesh.control.live.scrape import ScrapeError, Target
from pymesh.control.live.window import SECONDS, Tick, Total, Window, added
from pymesh.control.xds.fleet import Connection, Fleet
from pymesh.control.xds.node import is_gateway

log = logging.getLogger(__name__)

#: The agent that our proxies say they are.
OURS: Final = "pymesh"
#: From the start of a round to the start of the next, at least.
INTERVAL_SECONDS: Final = 1.0
#: How much longer than a round the rest after it is.
REST: Final = 2.0
#: How long it goes on after the last one has looked.
LINGER_SECONDS: Final = 30.0
#: Pages that are fetched at a time, and proxies that are asked at all.
AT_ONCE: Final = 16
MOST_PROXIES: Final = 2000
#: Ticks that a service's history holds.
HISTORY: Final = 600
#: Who may look at once.
MOST_WATCHERS: Final = 64

#: What a history holds of each tick, beside its time.
SIGNALS: Final = ("rate", "errors", "p50", "p99", "inFlight")


class TooManyError(Exception):
    """Nobody else can look now."""


class Configured(Protocol):
    """What the configuration in force tells of."""

    def known(self) -> tuple[Sequence[Known], Sequence[KnownService]]:
        """Workloads and services."""


@dataclass(slots=True)
class _Run:
    """What is remembered while somebody looks."""

    pages: dict[str, Page] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    #: Node id -> what it says of its configuration, if it has such a page.
    own: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    window: Window = field(default_factory=Window)
    last: float | None = None
    #: Service id -> (time, signals) of each tick.
    history: dict[str, deque[tuple[float, ...]]] = field(default_factory=dict)


class Collector:
    """The newest picture, kept while somebody looks."""

    def __init__(
        self,
        fleet: Fleet,
        configured: Configured,
        *,
        fetch: Callable[[Target, str], Awaitable[str]] = scrape.fetch,
        interval: float = INTERVAL_SECONDS,
        linger: float = LINGER_SECONDS,
    ) -> None:
        self._fleet = fleet
        self._configured = configured
        self._fetch = fetch
        self._interval = interval
        self._linger = linger
        self._run = _Run()
        self._task: asyncio.Task[None] | None = None
        self._watchers = 0
        self._left_at = 0.0
        self._is_stopped = False
        self._ticked = asyncio.Condition()
        #: Counts the pictures; 0 is none.
        self.sequence = 0
        self.at = 0.0
        self.state: State = {}

    @property
    def is_running(self) -> bool:
        """Whether proxies are asked."""
        return self._task is not None

    @property
    def is_stopped(self) -> bool:
        """Whether no more pictures will come."""
        return self._is_stopped

    @property
    def problems(self) -> dict[str, str]:
        """Node id -> why its metrics are not part of the picture."""
        return self._run.problems

    def own(self, node_id: str) -> Mapping[str, Any] | None:
        """What a proxy says of its configuration (`/config_sync`); None where it does not, or nobody looks."""
        return self._run.own.get(node_id)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """For as long as somebody looks. Raises :class:`TooManyError`."""
        if self._watchers >= MOST_WATCHERS:
            raise TooManyError(f"{MOST_WATCHERS} viewers look already")
        self._watchers += 1
        if self._task is None and not self._is_stopped:
            self._task = asyncio.create_task(self._collect())
        try:
            yield
        finally:
            self._watchers -= 1
            self._left_at = time.monotonic()

    async def after(self, sequence: int) -> None:
        """Wait for a picture that is newer than this one, or for the end. To be called while watching."""
        async with self._ticked:
            await self._ticked.wait_for(lambda: self.sequence > sequence or self._is_stopped)

    async def latest(self) -> State:
        """A picture, at once if there is one."""
        async with self.watching():
            await self.after(0)
            return self.state

    def history(self, service: str) -> dict[str, list[float | None]]:
        """The signals of a service, tick by tick: column by column, as charts want them."""
        ticks = self._run.history.get(service, ())
        columns = {"at": [tick[0] for tick in ticks]}
        columns |= {name: [tick[number] for tick in ticks] for number, name in enumerate(SIGNALS, 1)}
        # NaN is no JSON.
        return {name: [None if value != value else value for value in values] for name, values in columns.items()}

    async def stop(self) -> None:
        """End it, and let those go who wait."""
        self._is_stopped = True
        async with self._ticked:
            self._ticked.notify_all()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _collect(self) -> None:
        try:
            while self._watchers or time.monotonic() - self._left_at < self._linger:
                started = time.monotonic()
                try:
                    await self._round()
                except Exception:
                    # A picture that cannot be made must not end the pictures.
                    log.exception("the mesh could not be pictured")
                took = time.monotonic() - started
                await asyncio.sleep(max(self._interval - took, REST * took))
        finally:
            # What was is not what is when somebody looks again.
            self._run, self._task, self.sequence, self.state = _Run(), None, 0, {}

    async def _round(self) -> None:
        run = self._run
        connections = {one.node.id: one for one in self._fleet.connections()}
        asked = list(connections.values())[:MOST_PROXIES]
        run.pages = {name: page for name, page in run.pages.items() if name in connections}
        run.own = {name: page for name, page in run.own.items() if name in connections}
        run.problems = {one.node.id: "not asked: too many proxies" for one in list(connections.values())[MOST_PROXIES:]}
        limit = asyncio.Semaphore(AT_ONCE)
        growths = await asyncio.gather(*(self._read(one, limit) for one in asked))
        now = time.monotonic()
        seconds, run.last = (now - run.last if run.last is not None else 0.0), now
        links = added(growth.links for growth in growths if growth is not None)
        in_flight = {
            workload(one): growth.in_flight for one, growth in zip(asked, growths, strict=True) if growth is not None
        }
        tick = Tick(time.time(), seconds, links, in_flight)
        total = run.window.add(tick) if seconds else Total(tick.at, 0.0, links, in_flight)
        workloads, services = self._configured.known()
        known = Inventory.of([*workloads, *(_of_proxy(one) for one in connections.values())], services)
        state = picture(total, known)
        state["mesh"] = {"mesh": {"id": "mesh", **self._told(len(connections)), "seconds": round(total.seconds, 1)}}
        self._remember(tick.at, state)
        async with self._ticked:
            self.state, self.at = state, tick.at
            self.sequence += 1
            self._ticked.notify_all()

    async def _read(self, connection: Connection, limit: asyncio.Semaphore) -> Growth | None:
        name = connection.node.id
        async with limit:
            try:
                where = scrape.target(connection)
                text = await self._fetch(where, scrape.PATH)
            except ScrapeError as error:
                self._run.problems[name] = str(error)
                self._run.own.pop(name, None)
                return None
            if connection.node.user_agent == OURS:
                await self._read_own(name, where)
        try:
            return self._run.pages.setdefault(name, Page()).read(text)
        except (ValueError, OverflowError) as error:
            self._run.problems[name] = f"its metrics cannot be read: {error}"
            return None

    async def _read_own(self, name: str, where: Target) -> None:
        try:
            self._run.own[name] = scrape.own(await self._fetch(where, scrape.SYNC_PATH))
        except ScrapeError:
            # An older one has no such page. What it acknowledges is known all the same.
            self._run.own.pop(name, None)

    def _told(self, proxies: int) -> dict[str, Any]:
        return {"proxies": proxies, "silent": len(self._run.problems), "window": SECONDS}

    def _remember(self, at: float, state: State) -> None:
        history = self._run.history
        for gone in history.keys() - state["services"].keys():
            del history[gone]
        for key, service in state["services"].items():
            values = (float("nan") if service[name] is None else float(service[name]) for name in SIGNALS)
            history.setdefault(key, deque(maxlen=HISTORY)).append((round(at, 1), *values))


def workload(connection: Connection) -> tuple[str, str]:
    """Namespace and name in Istio's node id ``KIND~ADDRESS~NAME.NAMESPACE~DOMAIN``; another id is the name."""
    parts = connection.node.id.split("~")
    name, _, namespace = parts[2].rpartition(".") if len(parts) == 4 else (connection.node.id, "", "")
    return str(connection.node.metadata.get("NAMESPACE") or namespace), name


def _of_proxy(connection: Connection) -> Known:
    namespace, name = workload(connection)
    metadata = connection.node.metadata
    labels = metadata.get("LABELS")
    return described(
        namespace,
        name,
        labels if isinstance(labels, dict) else {},
        str(metadata.get("SERVICE_ACCOUNT") or ""),
        is_gateway=is_gateway(connection.node.id),
        is_connected=True,
    )
