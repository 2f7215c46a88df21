"""Mixed traffic in a thread of its own: keep-alive HTTP/1.1, HTTP/2, gRPC (unary and streams), WebSocket.

The gRPC client is grpcio without a retry policy: what a real client makes of GOAWAY is part of the load. It repeats
only what the protocol says was not looked at (a stream that it had not begun, or above the last one of a GOAWAY: the
transparent retries of gRFC A6).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from tests.lifecycle import http2, websocket
from tests.lifecycle.tally import Tally, Told
from tests.tools.wire import http1
from tests.tools.wire.message import Request, whole
from tests.tools.wire.origin import origin

KINDS = ["http1", "http1-idle", "http2", "grpc-unary", "grpc-stream", "websocket"]
_STREAMS = 4
_BODY = bytes(range(256)) * 40


@dataclass(frozen=True)
class Origins:
    """The ports of what answers: HTTP/1, gRPC, WebSocket."""

    http: int
    grpc: int
    websocket: int


@contextmanager
def origins() -> Iterator[Origins]:
    """Everything that the load asks for."""
    with origin("http") as http, _grpc_origin() as port, _websocket_origin() as other:
        yield Origins(http.port, port, other)


@contextmanager
def load(ports: list[int]) -> Iterator[Tally]:
    """Traffic to these ports for the length of the block; at its end every request has its outcome."""
    tally = Tally(ports)
    clients = [
        *[_http1(tally, "http1", 0.02) for _ in range(3)],
        *[_http1(tally, "http1-idle", 3.0) for _ in range(2)],
        *[_http2(tally) for _ in range(2)],
        _grpc(tally),
        *[_websocket(tally) for _ in range(2)],
    ]

    async def run() -> None:
        await asyncio.gather(*clients)

    thread = threading.Thread(target=asyncio.run, args=[run()], name="load")
    thread.start()
    try:
        yield tally
    finally:
        tally.over = True
        thread.join(60)
    assert not thread.is_alive(), "a request waits without end"


async def _http1(tally: Tally, kind: str, longest: float) -> None:
    while not tally.over:
        reader, writer = await tally.connect()
        client = http1.Client(reader, writer)
        try:
            while not tally.over:
                await tally.pause(longest)
                if reader.at_eof():
                    break  # closed between requests, and seen
                body = tally.chance.choice([b"", _BODY])
                length = [("content-length", str(len(body)))] if body else []
                sink = await client.send(Request("POST" if body else "GET", "/", "load.test", length))
                await sink.write(body)
                answer, content = await client.receive()
                await whole(content)
                if answer.status != 200:
                    raise ConnectionError(f"status {answer.status}")
                tally.done(kind)
                if answer.header("connection") == "close":
                    break
        except (OSError, asyncio.IncompleteReadError) as problem:
            tally.lose(kind, problem)
        finally:
            await client.close()


async def _http2(tally: Tally) -> None:
    async def ask(connection: http2.Connection) -> None:
        while not tally.over and not connection.leaving:
            try:
                await connection.get("/")
                tally.done("http2")
            except Told:
                tally.refused("http2")
            except ConnectionError as problem:
                tally.lose("http2", problem)
            await tally.pause(0.04)

    while not tally.over:
        connection = http2.Connection(*await tally.connect())
        await asyncio.gather(*[ask(connection) for _ in range(_STREAMS)])
        await connection.close()


async def _websocket(tally: Tally) -> None:
    while not tally.over:
        reader, writer = await tally.connect()
        try:
            client = websocket.Client(reader, writer)
            await client.open("/websocket")
            for at in range(tally.chance.randrange(3, 20)):
                await client.echo(b"message %d" % at)
                await tally.pause(0.1)
            await client.close()
            tally.done("websocket")
        except (OSError, asyncio.IncompleteReadError) as problem:
            tally.lose("websocket", problem)
        finally:
            writer.close()


async def _grpc(tally: Tally) -> None:
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in tally.ports)
    options = [
        ("grpc.default_authority", "load.test"),
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        unary, stream = channel.unary_unary("/load.Echo/Say"), channel.stream_stream("/load.Echo/Chat")

        async def say() -> None:
            assert await unary(b"once", timeout=30, wait_for_ready=True) == b"once"

        async def chat() -> None:
            call = stream(timeout=30, wait_for_ready=True)
            for at in range(tally.chance.randrange(2, 8)):
                await call.write(b"message %d" % at)
                assert await call.read() == b"message %d" % at
                await tally.pause(0.1)
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF

        async def repeat(kind: str, one: Callable[[], Coroutine[Any, Any, None]]) -> None:
            while not tally.over:
                try:
                    await one()
                    tally.done(kind)
                except grpc.aio.AioRpcError as problem:
                    tally.lose(kind, f"{problem.code()} {problem.details()}")
                await tally.pause(0.05)

        await asyncio.gather(*[repeat("grpc-unary", say), repeat("grpc-stream", chat), repeat("grpc-stream", chat)])


@contextmanager
def _grpc_origin() -> Iterator[int]:
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
        "Chat": grpc.stream_stream_rpc_method_handler(lambda requests, _: requests),
    }
    server = grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("load.Echo", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextmanager
def _websocket_origin() -> Iterator[int]:
    ports: list[int] = []
    started, over = threading.Event(), threading.Event()

    async def run() -> None:
        server = await asyncio.start_server(websocket.serve, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()
        await asyncio.to_thread(over.wait)
        server.close()

    thread = threading.Thread(target=asyncio.run, args=[run()], name="websocket")
    thread.start()
    try:
        assert started.wait(10)
        yield ports[0]
    finally:
        over.set()
        thread.join(10)
