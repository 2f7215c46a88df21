"""What the shop's services share: serve JSON over plain HTTP/1.1, call each other, and misbehave when told to.

Nothing here knows of a mesh. A service listens on `PORT` (at `HOST`, by default for this machine alone) and finds the
others as Kubernetes would tell it, in `CATALOG_SERVICE_HOST` and `CATALOG_SERVICE_PORT`. Connections are kept and
reused, per thread.

`GET /_behave?status=503&delay=0.5` makes every page answer so, `drop=1` answers nothing at all, until `GET /_behave?`.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

# Passed on from the incoming request, so that a trace and a user stay visible further in.
FORWARDED = ("x-request-id", "traceparent", "tracestate", "x-user")
TIMEOUT_S = 10.0

Json = dict[str, Any]
Handler = Callable[[str, Mapping[str, str]], Json | None]

_connections = threading.local()
_request = threading.local()


_behaviour: dict[str, str] = {}


class CallError(Exception):
    """Another service did not answer with 200."""


def call(name: str, path: str, headers: Mapping[str, str]) -> Json:
    """GET `path` from the service `name` and decode its JSON."""
    prefix = name.upper().replace("-", "_")
    address = os.environ[f"{prefix}_SERVICE_HOST"], int(os.environ[f"{prefix}_SERVICE_PORT"])
    forwarded = {key: headers[key] for key in FORWARDED if key in headers}
    kept: http.client.HTTPConnection | None = _connections.__dict__.pop(name, None)
    for connection in filter(None, (kept, http.client.HTTPConnection(*address, timeout=TIMEOUT_S))):
        try:
            connection.request("GET", path, headers=forwarded)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if connection is kept:  # it was closed while it was idle: a fresh one decides
                continue
            raise CallError(f"{name}: {error!r}") from error
        if not answer.will_close:
            setattr(_connections, name, connection)
        if answer.status != 200:
            raise CallError(f"{name}: {answer.status} {body[:200]!r}")
        decoded: Json = json.loads(body)
        return decoded
    raise AssertionError("a fresh connection is always tried")


def body() -> str:
    """That of the request which this thread answers."""
    return bytes(_request.body).decode("latin-1")


def serve(handler: Handler) -> None:
    """Answer requests with what `handler` returns for (path, headers); nothing means 404."""

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # head and body leave in one write

        def answer(self) -> None:
            _request.body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path.startswith("/_behave?"):
                _behaviour.clear()
                _behaviour.update(parse_qsl(self.path.partition("?")[2]))
                return self.send(200, {"behaviour": _behaviour})
            if self.path == "/healthz":
                return self.send(200, {"status": "ready"})
            time.sleep(float(_behaviour.get("delay", 0)))
            if "drop" in _behaviour:
                self.close_connection = True
                return None
            try:
                found = handler(self.path, self.headers)
                status = 404 if found is None else int(_behaviour.get("status", 200))
            except CallError as error:
                status, found = 502, {"error": str(error)}
            return self.send(status, found or {"error": f"no such page: {self.path}"})

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_OPTIONS = answer  # noqa: N815 - the base class's names

        def send(self, status: int, content: Json) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """The mesh logs requests."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    Server((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), Requests).serve_forever()
