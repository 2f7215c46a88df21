"""The admin pages as an ASGI application: Istio's paths, the API of the web UI, and the UI; read only.

Keys never reach the control plane, but whole secrets may one day travel through it: the dump shows
resources of the secret type by name and version only.
"""

from __future__ import annotations

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
from pymesh.control.admin import api
from pymesh.control.admin.api import ConfigView
from pymesh.control.admin.guard import LoopbackHosts
from pymesh.control.live.collector import Collector
from pymesh.control.xds import pb
from pymesh.control.xds.cache import Resource
from pymesh.control.xds.fleet import Connection, Fleet


def application(
    fleet: Fleet, registry: CollectorRegistry, config: ConfigView, collector: Collector, ready: Callable[[], bool]
) -> Starlette:
    """The admin application over a running control plane."""

    async def is_ready(_: Request) -> Response:
        return PlainTextResponse("ready\n") if ready() else PlainTextResponse("not ready\n", status_code=503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def syncz(_: Request) -> Response:
        return _json([_synced(connection) for connection in fleet.connections()])

    async def configz(_: Request) -> Response:
        return _json({"resources": list(config.resources()), "diagnostics": list(config.diagnostics())})

    async def ndsz(_: Request) -> Response:
        return _json({"table": dict(config.names())})

    async def config_dump(request: Request) -> Response:
        wanted = request.query_params.get("proxyID")
        connections = fleet.connections()
        if not wanted:
            known = [c.node.id for c in connections]
            return _json({"error": "say which proxy: ?proxyID=<node id>", "proxies": known}, status=400)
        for connection in connections:
            if connection.node.id == wanted:
                return _json(_dump(connection))
        return _json({"error": f"no proxy {wanted!r} is connected"}, status=404)

    return Starlette(
        routes=[
            Route("/ready", is_ready),
            Route("/metrics", metrics),
            Route("/debug/syncz", syncz),
            Route("/debug/configz", configz),
            Route("/debug/ndsz", ndsz),
            Route("/debug/config_dump", config_dump),
            *api.routes(fleet, config, collector),
            *ui.routes(),
        ],
        middleware=[Middleware(LoopbackHosts)],
    )


def _synced(connection: Connection) -> dict[str, Any]:
    types = {}
    for status in connection.session.status():
        types[status.type_url] = {
            "sent": status.sent_version,
            "acked": status.acked_version,
            "synced": status.sent_version == status.acked_version,
            "wildcard": status.wildcard,
            "subscribed": status.subscribed,
        }
        if status.rejection:
            types[status.type_url]["rejected"] = {
                "version": status.rejected_version,
                "reason": status.rejection,
            }
    return {
        "proxy": connection.node.id,
        "cluster": connection.node.cluster,
        "identity": str(connection.node.identity) if connection.node.identity else None,
        "peer": connection.peer,
        "variant": connection.variant,
        "connected_at": connection.connected_at.isoformat(),
        "types": types,
    }


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
