"""HTTP/2's windows across the proxy: what is not taken holds the sender back, and nothing is held for good.

Each test runs into the window of a whole connection several times over; a share of it that is not given back, or a
stream that is not woken when it opens again, shows as a request that never ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually
from tests.tools.ports import free_ports
from tests.tools.wire.client import exchange, http2_connection
from tests.tools.wire.message import Headers, Request
from tests.tools.wire.origin import Origin, origin

# More than a client's window, less than a stream's in the proxy: the proxy has all of it and cannot get rid of it.
_BODY = b"x" * 200_000
# So many of them are more than the window of one of the proxy's connections, which is a mebibyte.
_ROUNDS = 8


@dataclass(frozen=True)
class Path:
    """The proxy and both origins, which speak HTTP/2."""

    proxy: Proxy
    fast: Origin
    slow: Origin


@pytest.fixture(scope="module")
def path(run_proxy: Callable[[Json], AbstractContextManager[Proxy]]) -> Iterator[Path]:
    port, admin_port = free_ports(2)
    with origin("fast", http2=True) as fast, origin("slow", http2=True) as slow:
        routes = [to_cluster("slow", "/slow", timeout="0.3s"), to_cluster("fast")]
        clusters = [cluster("fast", [fast.port], http2=True), cluster("slow", [slow.port], http2=True)]
        with run_proxy(bootstrap([http_listener(port, [virtual_host("all", routes)])], clusters, admin_port)) as proxy:
            yield Path(proxy, fast, slow)


def test_many_bodies_share_a_connection(path: Path) -> None:
    async def run() -> None:
        async with http2_connection(path.proxy.port) as connection:

            async def echo() -> bytes:
                stream = await connection.send(_request("POST", "/", ("x-want-echo", "1")))
                return (await exchange(stream, stream, "POST", _BODY)).body

            assert await asyncio.gather(*(echo() for _ in range(_ROUNDS))) == [_BODY] * _ROUNDS

    _within_a_minute(run())


def test_clients_that_leave_take_nothing_with_them(path: Path) -> None:
    wanted = ("x-want-bytes", str(len(_BODY)))

    async def leave() -> None:
        async with http2_connection(path.proxy.port) as connection:
            stream = await connection.send(_request("GET", "/", wanted), end=True)
            await stream.receive()
            # The proxy has taken all of it, and the client does not read.
            await asyncio.to_thread(eventually, lambda: path.fast.completed > before)
            await stream.reset()

    async def stay() -> bytes:
        async with http2_connection(path.proxy.port) as connection:
            stream = await connection.send(_request("GET", "/", wanted), end=True)
            return (await exchange(stream, stream, "GET", b"")).body

    for _ in range(_ROUNDS):
        before = path.fast.completed
        _within_a_minute(leave())
    assert len(_within_a_minute(stay())) == len(_BODY)


def test_answers_before_the_request_was_taken_keep_nothing(path: Path) -> None:
    async def run() -> None:
        async with http2_connection(path.proxy.port) as connection:
            for _ in range(_ROUNDS):
                # The origin does not read while it waits, and its window is smaller than the body.
                stream = await connection.send(_request("POST", "/slow", ("x-want-delay", "5")))
                assert (await exchange(stream, stream, "POST", _BODY)).status == 504
            stream = await connection.send(_request("POST", "/", ("x-want-echo", "1")))
            assert (await exchange(stream, stream, "POST", _BODY)).body == _BODY

    _within_a_minute(run())


def _request(method: str, target: str, *headers: tuple[str, str]) -> Request:
    fields: Headers = headers
    return Request(method, target, "example.com", fields)


def _within_a_minute(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))
