"""What an operator is served (:mod:`pymesh.control.identity.operator` says where): the authority, and its phases."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from pymesh.control.identity.rotation import Rotation, RotationError


def application(rotation: Rotation) -> Starlette:
    """``GET /ca``, and ``POST`` of a phase's name below it."""

    async def show(_: Request) -> JSONResponse:
        return JSONResponse(rotation.status())

    async def change(request: Request) -> JSONResponse:
        asked = request.query_params
        is_forced = asked.get("force") == "true"
        try:
            match request.path_params["phase"]:
                case "prepare":
                    rotation.prepare()
                case "activate":
                    rotation.activate(force=is_forced)
                case "revoke":
                    rotation.revoke(asked.get("authority", ""), force=is_forced)
                case other:
                    return JSONResponse({"error": f"there is no phase {other!r}"}, 404)
        except RotationError as error:
            return JSONResponse({"error": str(error)}, 409)
        return JSONResponse(rotation.status())

    return Starlette(routes=[Route("/ca", show), Route("/ca/{phase}", change, methods=["POST"])])
