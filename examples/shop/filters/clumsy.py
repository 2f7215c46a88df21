"""A filter of the shop that does wrong whatever it is told to, for the scenario `filter-failures`."""

import asyncio
import time

from pymesh.filters import Context, HttpFilter, Reply, Request


class Clumsy(HttpFilter[dict[str, object]]):
    """The header `x-do` says what."""

    lane = "async"
    wants = ("x-do",)

    async def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
        match request.headers["x-do"]:
            case "raise":
                raise RuntimeError("as it was told to")
            case "sleep":
                await asyncio.sleep(30)
            case "block":
                time.sleep(2)  # noqa: ASYNC251  # what it is there to show
        return None
