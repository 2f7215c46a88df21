"""The web pages: files that were bundled when the wheel was built, and the rules under which a browser runs them.

The sources are `ui/` at the top of the repository; `npm run build` there (the Makefile calls it) writes `static/`
beside this file. The pages ask nobody but the control plane that served them, and their policy lets them ask nobody
else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

FOLDER: Final = Path(__file__).parent / "static"
#: The files, and what they are. Nothing else is served.
FILES: Final = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "theme.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "LICENSES.txt": "text/plain; charset=utf-8",
}
#: Scripts, styles and connections of this origin only; no inline code, no frames, no forms.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # Another version of the package is another bundle: asked for again, sent again only if it changed.
    "cache-control": "no-cache",
}


def routes() -> list[BaseRoute]:
    """`/ui/` and its files."""
    return [Route("/ui", _enter), Route("/ui/", _file), Route("/ui/{name}", _file)]


async def _enter(_: Request) -> Response:
    return RedirectResponse("/ui/", 308, HEADERS)


async def _file(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    if name not in FILES:
        return PlainTextResponse("there is no such page\n", 404, HEADERS)
    path = FOLDER / name
    if not path.is_file():
        reason = "this installation was built without the web UI; hint: `make wheel` builds it\n"
        return PlainTextResponse(reason, 404, HEADERS)
    return FileResponse(path, headers=HEADERS, media_type=FILES[name])
