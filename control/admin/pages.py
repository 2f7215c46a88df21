"""The admin pages as an ASGI application: Istio's paths, the API of the web UI, and the UI; read only.

Keys never reach the control plane, but whole secrets may one day travel through it: the dump shows
resources of the secret type by name and version only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pymesh.control import ui
from pymesh.control.admin import api, sync, targets
from pymesh.control.admin.api import ConfigView
from pymesh.control.admin.guard import LoopbackHosts
from pymesh.control.admin.rejections import Trace
from pymesh.control.description import KINDS, UnknownError
from pymesh.control.live.collector import Collector
from pymesh.control.xds import pb
from pymesh.control.xds.cache import Resource
from pymesh.control.xds.fleet import Connection, Fleet
from pymesh.control.xds.node import Node


def application(
    fleet: Fleet, registry: CollectorRegistry, config: ConfigView, collector: Collector, ready: Callable[[], bool]
) -> Starlette:
    """The admin application over a running control plane."""

    def traced_for(node: Node) -> Trace:
        # Asked for only where something was refused.
        return lambda message, path: config.origins(node)(message, path)

    async def is_ready(_: Request) -> Response:
        return PlainTextResponse("ready\n") if ready() else PlainTextResponse("not ready\n", status_code=503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def prometheus_targets(_: Request) -> Response:
        return _json(targets.groups(fleet.connections()))

    async def syncz(_: Request) -> Response:
        return _json([sync.entry(one, traced_for(one.node)) for one in fleet.connections()])

    async def configz(_: Request) -> Response:
        return _json({"resources": list(config.resources()), "diagnostics": list(config.diagnostics())})

    async def ndsz(_: Request) -> Response:
        return _json({"table": dict(config.names())})

    async def config_dump(request: Request) -> Response:
        found = _asked(fleet, request)
        return found if isinstance(found, Response) else _json(_dump(found))

    async def provenance(request: Request) -> Response:
        found = _asked(fleet, request)
        if isinstance(found, Response):
            return found
        trace, path = config.origins(found.node), request.query_params.get("path", "")
        resources = _selected(found, request)

        def traced() -> list[dict[str, Any]]:
            return [
                {
                    "type_url": one.type_url,
                    "name": one.name,
                    "version": one.version,
                    "objects": list(trace(one.message(), path)),
                }
                for one in resources
            ]

        # Thousands of resources take a moment, and streams must not wait for it.
        return _json(await asyncio.to_thread(traced))

    async def description(request: Request) -> Response:
        kind, name = request.query_params.get("kind", ""), request.query_params.get("name", "")
        if kind not in KINDS or not name:
            return _json({"error": f"say what: ?kind={'|'.join(KINDS)}&name=NAME"}, status=400)
        namespace = request.query_params.get("namespace", "default")
        try:
            return _json(await asyncio.to_thread(config.describe, kind, name, namespace))
        except UnknownError as error:
            return _json({"error": str(error)})

    return Starlette(
        routes=[
            Route("/ready", is_ready),
            Route("/metrics", metrics),
            Route("/prometheus/targets", prometheus_targets),
            Route("/debug/syncz", syncz),
            Route("/debug/configz", configz),
            Route("/debug/ndsz", ndsz),
            Route("/debug/config_dump", config_dump),
            Route("/debug/provenance", provenance),
            Route("/debug/describe", description),
            *api.routes(fleet, config, collector),
            *ui.routes(),
        ],
        middleware=[Middleware(LoopbackHosts)],
    )


def _asked(fleet: Fleet, request: Request) -> Connection | Response:
    """The proxy that a request asks about; of its connections the newest."""
    wanted = request.query_params.get("proxyID")
    connections = fleet.connections()
    if not wanted:
        known = [c.node.id for c in connections]
        return _json({"error": "say which proxy: ?proxyID=<node id>", "proxies": known}, status=400)
    found = [connection for connection in connections if connection.node.id == wanted]
    return found[-1] if found else _json({"error": f"no proxy {wanted!r} is connected"}, status=404)


def _selected(connection: Connection, request: Request) -> list[Resource]:
    """The resources of a proxy, narrowed by type and name if the request does."""
    kind, name = request.query_params.get("type"), request.query_params.get("name")
    return [
        resource
        for url, table in connection.snapshot.items()
        for resource in table.resources.values()
        if kind in (None, url) and name in (None, resource.name)
    ]


def _dump(connection: Connection) -> dict[str, Any]:
    return {
        "proxy": connection.node.id,
        "types": {
            url: {"version": table.version, "resources": [_shown(r) for r in table.resources.values()]}
            for url, table in connection.snapshot.items()
        },
    }


def _shown(resource: Resource) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": resource.name, "version": resource.version}
    if resource.type_url != pb.SECRET:
        shown["resource"] = pb.to_json(resource.message())
    return shown


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_INDENT_2), status, media_type="application/json")
