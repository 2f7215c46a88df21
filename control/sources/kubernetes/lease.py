"""Who of several control planes writes: the holder of a Lease (``coordination.k8s.io``), by client-go's rules.

```text
            taken or renewed                     renewed
follower ---------------------> leader ----------------------+
    ^                             |  ^                       |
    |   not renewed in time,      |  +-----------------------+
    +--- another holds it, or ----+
         it was released
```
:class:`Election` decides and knows no clock but the one it is told; :class:`Lease` asks the API server. Clocks of
others are never compared with ours: a Lease has run out when it has not changed for its duration as we have seen it. A
leader stops to be one before others may take over: it counts from when it began to ask for its last renewal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pymesh.control.sources.kubernetes.client import ApiClient, ApiError
from pymesh.control.status.objects import Json

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Times:
    """client-go's defaults. Whoever holds the Lease is believed dead after ``duration``; a leader gives up before."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0


@dataclass(slots=True)
class Election:
    """See the module. Times are seconds of one monotonic clock."""

    identity: str
    times: Times = field(default_factory=Times)
    #: Until when we lead, as far as we know.
    _leads_until: float = 0.0
    #: What was seen last of the Lease, and when it was new.
    _seen: tuple[Any, ...] = ()
    _seen_at: float = 0.0

    def leads(self, now: float) -> bool:
        """Whether we may write."""
        return now < self._leads_until

    def wanted(self, spec: Json | None, now: float, wall: datetime) -> dict[str, Any] | None:
        """What the Lease should say next, given what it says; None: it is somebody else's."""
        spec = spec or {}
        holder = str(spec.get("holderIdentity") or "")
        seen = (holder, spec.get("renewTime"), spec.get("acquireTime"), spec.get("leaseTransitions"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        if holder not in ("", self.identity):
            self._leads_until = 0.0
            if now < self._seen_at + float(spec.get("leaseDurationSeconds") or self.times.duration):
                return None
        is_ours = holder == self.identity
        transitions = int(spec.get("leaseTransitions") or 0)
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": round(self.times.duration),
            "acquireTime": spec.get("acquireTime") if is_ours and spec.get("acquireTime") else _micro(wall),
            "renewTime": _micro(wall),
            "leaseTransitions": transitions if is_ours or not holder else transitions + 1,
        }

    def written(self, asked_at: float) -> None:
        """The API server has taken what was wanted; ``asked_at`` is when we began to ask."""
        self._leads_until = asked_at + self.times.renew_deadline

    def lost(self) -> None:
        """Somebody else was faster."""
        self._leads_until = 0.0

    def released(self, spec: Json | None, wall: datetime) -> dict[str, Any] | None:
        """What the Lease should say so that others need not wait; None: it is not ours."""
        self._leads_until = 0.0
        if not spec or spec.get("holderIdentity") != self.identity:
            return None
        return {**spec, "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro(wall)}


class Lease:
    """One Lease, that we try to hold as long as :meth:`run` does."""

    def __init__(
        self,
        api: ApiClient,
        namespace: str,
        name: str,
        identity: str,
        times: Times | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._api = api
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._meta = {"name": name, "namespace": namespace}
        self._election = Election(identity, times or Times())
        self._clock = clock
        self._monotonic = monotonic
        self._led = False
        #: Whether it was told that we may not.
        self._refused = False

    @property
    def leads(self) -> bool:
        """Whether we may write."""
        return self._election.leads(self._now())

    async def run(self, changed: Callable[[], None]) -> None:
        """Try until cancelled, and let go then; ``changed`` is called when we have become the leader."""
        try:
            while True:
                await self._turn()
                if self.leads != self._led:
                    self._led = self.leads
                    log.info("writes status" if self._led else "writes no status", extra={"lease": self._meta["name"]})
                    if self._led:
                        changed()
                # Those who start together do not ask together for ever.
                await asyncio.sleep(self._election.times.retry * random.uniform(1.0, 1.2))
        finally:
            with contextlib.suppress(ApiError, TimeoutError):
                await asyncio.shield(asyncio.wait_for(self._release(), 2.0))

    async def _turn(self) -> None:
        try:
            async with asyncio.timeout(self._election.times.renew_deadline / 2):
                await self._renew()
        except ApiError as error:
            if error.code == 409:
                self._election.lost()
            elif error.code in (401, 403) and not self._refused:
                self._refused = True
                log.error("the Lease may not be used", extra={"lease": self._meta["name"], "reason": str(error)})
            # Whatever else it is: we lead for as long as the last renewal holds.
            log.debug("Lease not renewed", extra={"reason": str(error)})
        except TimeoutError:
            log.debug("Lease not renewed", extra={"reason": "no answer"})

    async def _renew(self) -> None:
        asked_at = self._now()
        current = await self._current()
        wanted = self._election.wanted((current or {}).get("spec"), self._now(), self._clock())
        if wanted is None:
            return
        if current is None:
            made = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": self._meta, "spec": wanted}
            await self._api.request("POST", self._folder, made)
        else:
            # Its resourceVersion is in it: of two who try, one gets 409.
            await self._api.request("PUT", f"{self._folder}/{self._meta['name']}", {**current, "spec": wanted})
        self._election.written(asked_at)

    async def _release(self) -> None:
        current = await self._current()
        if current is None:
            return
        wanted = self._election.released(current.get("spec"), self._clock())
        if wanted is not None:
            await self._api.request("PUT", f"{self._folder}/{self._meta['name']}", {**current, "spec": wanted})

    async def _current(self) -> Json | None:
        try:
            return await self._api.request("GET", f"{self._folder}/{self._meta['name']}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def _now(self) -> float:
        return self._monotonic() if self._monotonic is not None else asyncio.get_running_loop().time()


def _micro(wall: datetime) -> str:
    """Kubernetes' MicroTime."""
    return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
