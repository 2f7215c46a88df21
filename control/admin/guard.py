"""Who may ask the admin pages: those who mean this machine by its own name.

The pages are on loopback and need no password. A browser on the same machine would show them to any web site whose
name leads to 127.0.0.1 (DNS rebinding), so that a request has to name a loopback address or `localhost` as its host.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_HOST: Final = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[^\[\]:@/]+))(?::\d{1,5})?")


class LoopbackHosts:
    """Answers 421 (Misdirected Request) to a request for a host that is not this machine."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            hosts = Headers(scope=scope).getlist("host")
            if len(hosts) != 1 or not is_loopback(hosts[0]):
                said = "the admin pages answer on loopback only; hint: ask for http://localhost:PORT/\n"
                await PlainTextResponse(said, 421)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def is_loopback(authority: str) -> bool:
    """Whether a Host header's value is a loopback address or `localhost`, with a port or without."""
    match = _HOST.fullmatch(authority)
    if match is None:
        return False
    if match["name"] is not None and match["name"].lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(match["six"] or match["name"]).is_loopback
    except ValueError:
        return False
