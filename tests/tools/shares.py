"""Who serves how many requests: origins by number, and a client that asks fast enough to count thousands."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tests.tools.serving import looping

_HEAD_END = b"\r\n\r\n"


class _Origin(asyncio.Protocol):
    """Answers every request head with its number; bodies are not expected."""

    def __init__(self, number: int) -> None:
        self._answer = b"HTTP/1.1 200 OK\r\nx-served-by: %d\r\ncontent-length: 0\r\n\r\n" % number
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(_HEAD_END)
        self._transport.write(self._answer * len(heads))


@contextmanager
def numbered_origins(count: int) -> Iterator[list[int]]:
    """The ports of this many origins, in a thread of their own; each answers with its number as `x-served-by`."""

    async def start() -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        return [await loop.create_server(partial(_Origin, number), "127.0.0.1", 0) for number in range(count)]

    with looping(start) as ports:
        yield ports


def shares(port: int, host: str, requests: int, batch: int = 50) -> Counter[str]:
    """How often each origin answered, and each status other than 200 (`503`); no two requests are under way at once."""
    seen: Counter[str] = Counter()
    head = f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
    asked = 0
    while asked < requests:
        # A proxy may close behind an answer of its own if there is more to read: what is left is asked one by one.
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while asked < requests:
                wanted = min(batch, requests - asked)
                connection.sendall(head * wanted)
                answers = list(_answers(connection, wanted))
                asked += len(answers)
                seen.update(number if status == "200" else status for number, status in answers)
                if len(answers) < wanted:
                    batch = 1
                    break
            else:
                break
        if not answers:
            raise ConnectionError(f"{host} is not answered")
    return seen


def _answers(connection: socket.socket, count: int) -> Iterator[tuple[str, str]]:
    """The origin and the status of each of the next answers; fewer if the connection is closed."""
    data = b""
    while count:
        end = data.find(_HEAD_END)
        length = re.search(rb"\r\ncontent-length: (\d+)", data[: end + 2]) if end >= 0 else None
        size = end + 4 + int(length[1]) if length else None
        if size is None or len(data) < size:
            more = connection.recv(65536)
            if not more:
                return
            data += more
            continue
        head, data = data[: end + 2], data[size:]
        served = re.search(rb"\r\nx-served-by: (\d+)\r\n", head)
        yield served[1].decode() if served else "", head.split(b" ", 2)[1].decode()
        count -= 1
