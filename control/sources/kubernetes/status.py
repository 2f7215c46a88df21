"""Writes `status` and Events of resources, while this control plane holds the Lease.

```text
state (store, objects) --wanted--> what differs --merge patch with resourceVersion--> API server
```
One round looks at everything: there is no memory of what was said that could be wrong. An object that changed in
between answers 409 and has its turn in the next round. Only ``status`` is ever written, never what an author wrote.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from pymesh.control.resources.gateway_api import GROUP
from pymesh.control.sources.kubernetes.client import JSON, MERGE, ApiClient, ApiError
from pymesh.control.sources.kubernetes.kinds import plural
from pymesh.control.status import events
from pymesh.control.status.conditions import without_times
from pymesh.control.status.gateways import CLASS, CONTROLLER, class_status, gateway_status
from pymesh.control.status.objects import Json, Object
from pymesh.control.status.others import Rejection, istio_status, own_status
from pymesh.control.status.routes import route_status
from pymesh.control.store.parents import Route
from pymesh.control.store.store import Store

log = logging.getLogger(__name__)

#: A change that nobody told of (somebody else wrote a status) is seen after this long.
RESYNC_SECONDS = 10.0
#: What is refused for less has perhaps only come before what it needs, and is no Event.
SETTLED_SECONDS = 2.0
#: A burst of changes is one round.
QUIET_SECONDS = 0.1
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.5, 30.0
#: Requests at one time.
_AT_ONCE = 8
_ISTIO = ("networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io")
_ROUTES = ("HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute")
#: Events that we remember to have sent.
_MOST_SAID = 10_000

#: Kind, namespace and name -> what proxies refused of it.
Rejections = Mapping[tuple[str, str, str], Sequence[Rejection]]


@dataclass(frozen=True, slots=True)
class State:
    """What is in force, and every object with what was found about it."""

    store: Store
    objects: Sequence[Object]


class Leader(Protocol):
    """Who may write."""

    @property
    def leads(self) -> bool:
        """Whether it is us."""


def wanted(state: State, rejections: Rejections, now: datetime) -> Iterator[tuple[Object, Json]]:
    """Each object whose status is ours to write, and what it should say; other fields of it stay."""
    services = [one for one in state.objects if one.version == "v1" and one.kind == "Service"]
    gateways = {(one.namespace, one.name): one for one in state.objects if _is_our_gateway(one)}
    routes = [one.resource for one in state.objects if isinstance(one.resource, Route)]
    for one in state.objects:
        group = one.version.rpartition("/")[0]
        if _is_our_gateway(one):
            yield one, gateway_status(state.store, one, services, now, routes)
        elif group == GROUP and one.kind in _ROUTES:
            status = route_status(state.store, one, gateways, now)
            if status["parents"] or one.status.get("parents"):
                yield one, status
        elif group == GROUP and one.kind == "GatewayClass" and one.spec.get("controllerName") == CONTROLLER:
            yield one, class_status(one, now)
        elif group in _ISTIO:
            yield one, istio_status(state.store, one, now)
        elif group == "extensions.pymesh.dev":
            yield one, own_status(one, rejections.get((one.kind, one.namespace, one.name), ()), now)


def says_more(object_: Object, status: Json) -> bool:
    """Whether a status differs from what the object's says, times aside."""
    now_there = {key: object_.status.get(key) for key in status}
    return without_times(now_there) != without_times(status)


@dataclass(slots=True)
class StatusWriter:
    """See the module."""

    api: ApiClient
    leader: Leader
    state: Callable[[], State]
    rejections: Callable[[], Rejections]
    #: Of this control plane, in Events.
    reporter: str
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    #: Names of Events that the API server has.
    _said: dict[str, None] = field(default_factory=dict)
    #: Names of those that it shall have, and since when there is reason for them.
    _reasons: dict[str, datetime] = field(default_factory=dict)
    #: uid -> what we wrote and what the server made of it: one that prunes a field is not told the same for ever.
    _taken: dict[str, tuple[Json, Json]] = field(default_factory=dict)

    def changed(self) -> None:
        """There may be something to write."""
        self._changed.set()

    async def run(self) -> None:
        """Write until cancelled."""
        retry = _FIRST_RETRY_SECONDS
        wait = RESYNC_SECONDS
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
                await asyncio.sleep(QUIET_SECONDS)
            except TimeoutError:
                pass
            self._changed.clear()
            wait, failed = RESYNC_SECONDS, False
            if self.leader.leads:
                failed = not await self.round()
            if failed and self.leader.leads:
                wait, retry = retry, min(retry * 2, _LONGEST_RETRY_SECONDS)
            else:
                retry = _FIRST_RETRY_SECONDS
                wait = SETTLED_SECONDS if self._reasons else RESYNC_SECONDS

    async def round(self) -> bool:
        """Write what is not yet written; whether all of it is."""
        state, rejections, now = self.state(), self.rejections(), self.clock()
        # As long as a mesh is large: beside the streams.
        due, notes = await asyncio.to_thread(self._due, state, rejections, now)
        results = await asyncio.gather(
            *(self._write(one, status) for one, status in due), *(self._say(one) for one in notes)
        )
        return all(results)

    def _due(
        self, state: State, rejections: Rejections, now: datetime
    ) -> tuple[list[tuple[Object, Json]], list[dict[str, Any]]]:
        due = []
        for one, status in wanted(state, rejections, now):
            taken = self._taken.get(one.uid)
            is_known = taken is not None and taken == (without_times(status), without_times(one.status))
            if says_more(one, status) and not is_known:
                due.append((one, status))
        present = {one.uid for one in state.objects}
        for uid in [uid for uid in self._taken if uid not in present]:
            del self._taken[uid]
        made = {one["metadata"]["name"]: one for one in self._events(state, now)}
        self._reasons = {name: self._reasons.get(name, now) for name in made}
        settled = timedelta(seconds=SETTLED_SECONDS)
        return due, [one for name, one in made.items() if now - self._reasons[name] >= settled]

    def _events(self, state: State, now: datetime) -> Iterator[dict[str, Any]]:
        for one in state.objects:
            event = events.refusal(one, self.reporter, now)
            if event is not None and event["metadata"]["name"] not in self._said:
                yield event

    async def _write(self, one: Object, status: Json) -> bool:
        # A status is about one version of its object.
        version = one.document["metadata"].get("resourceVersion")
        patch = {"metadata": {"resourceVersion": version}, "status": status}
        path = f"{_path(one)}/status"
        answer = await self._asked("PATCH", path, patch, f"status of {one.title}")
        if answer is None:
            return False
        made = answer.get("status")
        self._taken[one.uid] = (without_times(status), without_times(made if isinstance(made, Mapping) else {}))
        return True

    async def _say(self, event: dict[str, Any]) -> bool:
        folder = f"/apis/events.k8s.io/v1/namespaces/{event['metadata']['namespace']}/events"
        answer = await self._asked("POST", folder, event, f"Event {event['metadata']['name']}", said=409)
        if answer is None:
            return False
        self._said[event["metadata"]["name"]] = None
        while len(self._said) > _MOST_SAID:
            del self._said[next(iter(self._said))]
        return True

    async def _asked(self, method: str, path: str, body: Json, what: str, said: int = 0) -> Json | None:
        """The answer; None if it is to be tried again. One that cannot be mended by trying is as good as done."""
        async with self._at_once:
            if not self.leader.leads:
                return None
            try:
                content_type = MERGE if method == "PATCH" else JSON
                return await self.api.request(method, path, body, content_type=content_type)
            except ApiError as error:
                if error.code in (404, said):
                    return {}  # it is gone, or it was said before
                if error.code in (400, 422):
                    log.error("not written", extra={"what": what, "reason": str(error)})
                    return {}
                level = logging.WARNING if error.code == 403 else logging.INFO
                log.log(level, "not written yet", extra={"what": what, "reason": str(error)})
                return None


def _path(one: Object) -> str:
    root = f"/apis/{one.version}" if "/" in one.version else f"/api/{one.version}"
    place = f"/namespaces/{one.namespace}" if one.namespace else ""
    return f"{root}{place}/{plural(one.kind)}/{one.name}"


def _is_our_gateway(one: Object) -> bool:
    is_gateway = one.kind == "Gateway" and one.version.startswith(f"{GROUP}/")
    return is_gateway and one.spec.get("gatewayClassName") == CLASS


def by_resource(found: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]) -> Rejections:
    """From what proxies refused (node, and problems with the resources behind) to the resources."""
    made: dict[tuple[str, str, str], list[Rejection]] = {}
    for node, problems in found:
        for one in problems:
            for behind in one["objects"][:1]:
                key = str(behind["kind"]), str(behind["namespace"]), str(behind["name"])
                made.setdefault(key, []).append(Rejection(node, str(one["problem"])))
    return made
