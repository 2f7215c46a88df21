"""An external authorizer over HTTP: whoever shows a golden ticket comes in, and is told to the application by name.

The proxy sends it a copy of each request's head, with the path behind `/check`: 200 lets the request through, any other
answer is what the client is told.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GUESTS = {"gold": "alice", "silver": "bob"}


class Checks(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def check(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/healthz":
            return self.answer(200, {})
        guest = GUESTS.get(self.headers.get("x-ticket", ""))
        if guest is None:
            return self.answer(401, {"www-authenticate": "Ticket", "x-reason": "no ticket"})
        if self.path.startswith("/check/admin") and guest != "alice":
            return self.answer(403, {"x-reason": "not for everybody"})
        return self.answer(200, {"x-guest": guest, "x-seen-by": "authorizer"})

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_OPTIONS = check  # noqa: N815 - the base class's names

    def answer(self, status, headers):
        body = json.dumps({"checked": self.path, **headers}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format, *args):
        """The mesh logs requests."""


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Checks).serve_forever()
