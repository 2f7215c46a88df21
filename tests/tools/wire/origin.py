"""An origin that tells what reached it, and misbehaves when the request asks it to.

The request's headers say what to do, because paths and hosts are what the tests vary:

    x-want-status: 503          answer with this status
    x-want-header: name=value   add a response header (may be repeated)
    x-want-delay: 2             seconds before the response's head
    x-want-bytes: 10000000      a body of so many octets instead of the report
    x-want-echo: 1              send the request's body back while it still comes in, then its trailers
    x-want-stall: 1             send the head, then nothing more
    x-want-reset: before        end without a response's head ("before"), or after some of the body ("after")

A value `one|other` is for the first attempt and for those after it, as `x-envoy-attempt-count` tells them apart.

Otherwise the body is a JSON report of the request, and `x-origin` names the origin.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from tests.tools.certificates import KeyPair
from tests.tools.serving import looping
from tests.tools.wire import http1, http2
from tests.tools.wire.message import Aborted, Exchange, Request

_PIECE = bytes(range(256)) * 64


class Origin:
    """A running origin; `requests` lists what reached it, in order of arrival."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.requests: list[Request] = []
        #: What was told, or would have been, of each request that came whole.
        self.reports: list[dict[str, object]] = []
        self.connections = 0
        self.open = 0
        self.completed = 0
        self.aborted = 0
        #: Octets of bodies that were handed to the system, and taken from it.
        self.sent = 0
        self.received = 0

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        self.requests.append(exchange.request)
        try:
            await self._answer(exchange)
            self.completed += 1
        except (Aborted, ConnectionError, asyncio.IncompleteReadError):
            self.aborted += 1
            raise

    async def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        attempt = next((int(value) for name, value in request.headers if name == "x-envoy-attempt-count"), 1)
        wants = {name: _of_attempt(value, attempt) for name, value in request.headers if name.startswith("x-want-")}
        wants = {name: value for name, value in wants.items() if value}
        headers = [("x-origin", self.name)]
        told = [_of_attempt(value, attempt) for name, value in request.headers if name == "x-want-header"]
        headers += [_pair(value) for value in told if value]
        status = int(wants.get("x-want-status", "200"))
        await asyncio.sleep(float(wants.get("x-want-delay", "0")))
        if wants.get("x-want-reset") == "before":
            await exchange.reset()
        elif "x-want-echo" in wants:
            if all(name != "content-type" for name, _ in headers):
                headers.append(("content-type", "application/octet-stream"))
            await exchange.respond(status, headers)
            while piece := await exchange.read():
                self.received += len(piece)
                await exchange.write(piece)
                self.sent += len(piece)
            await exchange.end(exchange.trailers)
        elif "x-want-bytes" in wants or "x-want-reset" in wants or "x-want-stall" in wants:
            left = int(wants.get("x-want-bytes", "100000"))
            await exchange.respond(status, [*headers, ("content-length", str(left))])
            if "x-want-stall" in wants:
                await asyncio.sleep(3600)
            while left:
                piece = _PIECE[:left]
                await exchange.write(piece)
                self.sent += len(piece)
                left -= len(piece)
                if "x-want-reset" in wants and left < 50_000:
                    # A proxy that learns of the response and its end at once may answer otherwise.
                    await asyncio.sleep(0.3)
                    await exchange.reset()
                    return
            await exchange.end()
        else:
            await self._report(exchange, status, headers)

    async def _report(self, exchange: Exchange, status: int, headers: list[tuple[str, str]]) -> None:
        request = exchange.request
        digest, length = hashlib.sha256(), 0
        while piece := await exchange.read():
            digest.update(piece)
            length += len(piece)
            self.received += len(piece)
        report: dict[str, object] = {
            "origin": self.name,
            "method": request.method,
            "target": request.target,
            "authority": request.authority,
            "headers": [list(pair) for pair in request.headers],
            "trailers": [list(pair) for pair in exchange.trailers],
            "length": length,
            "sha256": digest.hexdigest(),
        }
        self.reports.append(report)
        body = json.dumps(report).encode()
        if status in (204, 304):
            await exchange.respond(status, headers)
        else:
            head = [*headers, ("content-type", "application/json"), ("content-length", str(len(body)))]
            await exchange.respond(status, head)
            if request.method != "HEAD":
                # Octets and end at once: a client that has them all may leave, and a proxy that still waits for the
                # end would rightly call it gone.
                await exchange.end(last=body)
                return
        await exchange.end()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, http2_: bool) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open += 1
        try:
            if http2_:
                connection = http2.Connection(reader, writer, client=False, handle=self.handle)
                await connection.start()
                await connection.run()
            else:
                await http1.serve(reader, writer, self.handle)
        except asyncio.CancelledError:
            # The client has left; asyncio would say so on stderr, each time.
            pass
        finally:
            self.open -= 1


@contextmanager
def origin(name: str = "a", *, http2: bool = False, tls: KeyPair | None = None, port: int = 0) -> Iterator[Origin]:
    """Run an origin in a thread of its own for the length of the block."""
    running = Origin(name)
    context = server_context(tls, ["h2"] if http2 else ["http/1.1"]) if tls else None

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await running.connected(reader, writer, http2)

    async def start() -> list[asyncio.Server]:
        # A client that leaves is not waited for: what it did not take is lost in any case.
        patience = 1.0 if context else None
        # A thousand connections may come at once, to a test's origin that is slow to accept them.
        server = await asyncio.start_server(
            connected,
            "127.0.0.1",
            port,
            ssl=context,
            limit=256 * 1024,
            ssl_shutdown_timeout=patience,
            backlog=4096,
        )
        return [server]

    with looping(start) as ports:
        running.port = ports[0]
        yield running


def server_context(pair: KeyPair, alpn: list[str]) -> ssl.SSLContext:
    """TLS for an origin."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.chain, pair.key)
    context.set_alpn_protocols(alpn)
    return context


def _of_attempt(value: str, attempt: int) -> str:
    choices = value.split("|")
    return choices[min(attempt, len(choices)) - 1]


def _pair(value: str) -> tuple[str, str]:
    name, _, content = value.partition("=")
    return name, content
