"""`/api/v1`: what the web UI shows, as JSON, read only. Names and counts; nothing of a resource's content.

The stream (server-sent events) begins with `snapshot`, the whole state, and goes on with `delta`s, at most one for
each tick of the collector. Each is made for its reader from what that one has, so that a slow reader gets fewer and
larger ones. `from` and `sequence` say which picture a delta starts from and leads to; who has another one connects
again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from pymesh.control.admin import sync
from pymesh.control.admin.rejections import Trace
from pymesh.control.admin.sync import TypeState
from pymesh.control.live import deltas
from pymesh.control.live.collector import Collector, TooManyError
from pymesh.control.live.graph import State
from pymesh.control.xds.fleet import Connection, Fleet
from pymesh.control.xds.metrics import short_type
from pymesh.control.xds.node import Node

#: A reader that hears nothing for this long may think that the connection is dead.
KEEP_ALIVE_SECONDS: Final = 15.0
_HEADERS: Final = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


class ConfigView(Protocol):
    """The configuration as people see it."""

    def resources(self) -> Sequence[dict[str, Any]]:
        """Each resource in use: kind, namespace, name, place."""

    def diagnostics(self) -> Sequence[dict[str, Any]]:
        """Everything wrong with the newest files: what, where, hint."""

    def names(self) -> Mapping[str, Any]:
        """Host -> its addresses: Istio's name table."""

    def standing(self) -> dict[str, Any]:
        """Since when the configuration is in force, and since when newer files are refused (None: they are not)."""

    def describe(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        """What applies to a service, workload or gateway. Raises UnknownError."""

    def origins(self, node: Node) -> Trace:
        """For a proxy: the resources behind what it was sent, or behind a path in that; the closest first."""


def routes(fleet: Fleet, config: ConfigView, collector: Collector) -> list[BaseRoute]:
    """The API over a running control plane."""

    def shown(namespace: str) -> State:
        return deltas.of_namespace(_with_totals(collector, fleet, config), namespace)

    async def graph(request: Request) -> Response:
        try:
            await collector.latest()
        except TooManyError as error:
            return _json({"error": str(error)}, 503)
        state = shown(request.query_params.get("namespace", ""))
        lists = {kind: list(items.values()) for kind, items in state.items()}
        return _json({"sequence": collector.sequence, "at": collector.at, **lists})

    async def stream(request: Request) -> Response:
        namespace = request.query_params.get("namespace", "")
        events = _events(collector, lambda: shown(namespace))
        try:
            # The first event is made here: who cannot look is told by a status.
            first = await anext(events)
        except TooManyError as error:
            return _json({"error": str(error)}, 503)
        return StreamingResponse(_after(first, events), media_type="text/event-stream", headers=_HEADERS)

    async def history(request: Request) -> Response:
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        return _json(collector.history(f"{'' if namespace == '-' else namespace}/{name}"))

    async def configuration(_: Request) -> Response:
        told = {"resources": list(config.resources()), "diagnostics": list(config.diagnostics())}
        return _json({**config.standing(), **told})

    async def proxies(_: Request) -> Response:
        return _json([_proxy(one, collector) for one in fleet.connections()])

    return [
        Route("/api/v1/graph", graph),
        Route("/api/v1/stream", stream),
        Route("/api/v1/services/{namespace}/{name}/history", history),
        Route("/api/v1/configuration", configuration),
        Route("/api/v1/proxies", proxies),
    ]


async def _events(collector: Collector, shown: Callable[[], State]) -> AsyncIterator[bytes]:
    async with collector.watching():
        await collector.after(0)
        sent, state = collector.sequence, shown()
        lists = {kind: list(items.values()) for kind, items in state.items()}
        yield _event("snapshot", {"sequence": sent, "at": collector.at, **lists})
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    await collector.after(sent)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if collector.is_stopped:
                return
            before, state = state, shown()
            numbers = {"from": sent, "sequence": collector.sequence, "at": collector.at}
            sent = collector.sequence
            yield _event("delta", {**numbers, **deltas.between(before, state)})


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for one in rest:
            yield one
    finally:
        await rest.aclose()  # type: ignore[attr-defined]


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\nid: %d\ndata: " % data["sequence"] + orjson.dumps(data) + b"\n\n"


def _with_totals(collector: Collector, fleet: Fleet, config: ConfigView) -> State:
    """The picture with what stands above every page: how many proxies are in step, how much is wrong."""
    state = collector.state
    states = [sync.overall(_states(one, collector)) for one in fleet.connections()]
    found = [one["severity"] for one in config.diagnostics()]
    totals = {
        "synced": states.count("SYNCED"),
        "rejected": states.count("NACK"),
        "errors": found.count("error"),
        "warnings": found.count("warning"),
    }
    return {**state, "mesh": {key: {**item, **totals} for key, item in state.get("mesh", {}).items()}}


def _states(connection: Connection, collector: Collector) -> dict[str, TypeState]:
    """How far a proxy is, by what is known of it on both sides. Whose doing a refusal is, is not asked."""
    told = sync.entry(connection, lambda *_: ())
    return sync.judge(told, collector.own(connection.node.id), lambda *_: ())


def _proxy(connection: Connection, collector: Collector) -> dict[str, Any]:
    node, states = connection.node, _states(connection, collector)
    own = collector.own(node.id)
    workers = sync.workers(own) if own is not None else None

    def of(url: str) -> TypeState:
        return states.get(short_type(url).upper(), TypeState("NOT SENT"))

    return {
        "id": node.id,
        "cluster": node.cluster,
        "identity": str(node.identity) if node.identity else None,
        "agent": node.user_agent,
        "peer": connection.peer,
        "variant": connection.variant,
        "connectedAt": connection.connected_at.isoformat(),
        "state": sync.overall(states),
        "workers": {"current": workers.current, "total": workers.total} if workers else None,
        "metricsProblem": collector.problems.get(node.id),
        "types": [
            {
                "type": short_type(one.type_url),
                "sent": one.sent_version,
                "acked": one.acked_version,
                "rejected": one.rejected_version,
                "reason": one.rejection,
                "state": of(one.type_url).state,
                "why": of(one.type_url).reason,
                "resources": len(connection.snapshot[one.type_url].resources)
                if one.type_url in connection.snapshot
                else 0,
            }
            for one in connection.session.status()
        ],
    }


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, _HEADERS, "application/json")
