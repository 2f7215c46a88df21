"""An external authorizer that a test scripts: `envoy.service.auth.v3` over gRPC, or plain HTTP.

What it was asked stands in `asked`, as JSON; what it answers is what the test has put under the value of the request's
header `x-ask`, so that many requests can be asked about in any order and both proxies are told the same.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc

from pymesh.control.xds import pb

CHECK = "envoy.service.auth.v3.Authorization"
#: Of a request that says nothing else.
PLAIN = "plain"


@dataclass
class Authorizer:
    """One that runs. `script` says what to answer, by the name that the request asks for."""

    port: int = 0
    #: gRPC: a `CheckResponse` as JSON, `Raw` octets in its place, or a gRPC status code by its name.
    #: HTTP: `Plain`.
    script: dict[str, Any] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    #: The gRPC metadata of each question, or the headers of an HTTP one.
    metadata: list[list[tuple[str, str]]] = field(default_factory=list)
    #: Seconds before each answer.
    delay: float = 0

    def clear(self) -> None:
        """Forget what was asked."""
        self.asked.clear()
        self.metadata.clear()

    def answer(self, name: str) -> Any:
        """What stands in the script for a request."""
        time.sleep(self.delay)
        return self.script.get(name, self.script[PLAIN])


@dataclass(frozen=True)
class Raw:
    """Octets in place of a message."""

    octets: bytes


@dataclass(frozen=True)
class Plain:
    """An HTTP answer."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@contextmanager
def grpc_authorizer() -> Iterator[Authorizer]:
    """Serves `Authorization/Check` for the length of the block."""
    made = Authorizer(script={PLAIN: {"status": {"code": 0}}})
    lock = threading.Lock()

    def check(octets: bytes, context: grpc.ServicerContext) -> bytes:
        request = pb.to_json(pb.message("envoy.service.auth.v3.CheckRequest").FromString(octets))
        headers = request["attributes"].get("request", {}).get("http", {}).get("headers", {})
        with lock:
            made.asked.append(request)
            made.metadata.append([(pair.key, str(pair.value)) for pair in context.invocation_metadata()])
        answer = made.answer(headers.get("x-ask", PLAIN))
        if isinstance(answer, Raw):
            return answer.octets
        if isinstance(answer, str):
            context.abort(grpc.StatusCode[answer], "scripted")
        return _encoded(answer)

    with ThreadPoolExecutor(max_workers=8) as pool:
        server = grpc.server(pool)
        handler = grpc.unary_unary_rpc_method_handler(check)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(CHECK, {"Check": handler})])
        made.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield made
        finally:
            server.stop(None).wait()


def _encoded(answer: dict[str, Any]) -> bytes:
    """A `CheckResponse`. Options of headers may have the old `append`, which our messages do not."""
    answer = copy.deepcopy(answer)
    old: list[tuple[str, str, int, bool]] = []
    for part in ("ok_response", "denied_response", "error_response"):
        for name in ("headers", "response_headers_to_add"):
            for index, option in enumerate(answer.get(part, {}).get(name, [])):
                if "append" in option:
                    old.append((part, name, index, option.pop("append")))
    message = pb.from_json("envoy.service.auth.v3.CheckResponse", answer)
    for part, name, index, append in old:
        # Field 2 of the option is a `BoolValue`; unknown, it is kept as it is.
        getattr(getattr(message, part), name)[index].MergeFromString(b"\x12\x02\x08\x01" if append else b"\x12\x00")
    return bytes(message.SerializeToString())


@contextmanager
def http_authorizer() -> Iterator[Authorizer]:
    """Serves every path for the length of the block."""
    made = Authorizer(script={PLAIN: Plain(200)})
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = [(name.lower(), value) for name, value in self.headers.items()]
            with lock:
                made.asked.append({"method": self.command, "path": self.path, "body": body.decode("latin-1")})
                made.metadata.append(headers)
            answer = made.answer(dict(headers).get("x-ask", PLAIN))
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def __getattr__(self, name: str) -> Callable[[], None]:
            # Whatever the method is called.
            if name.startswith("do_"):
                return self.do
            raise AttributeError(name)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
