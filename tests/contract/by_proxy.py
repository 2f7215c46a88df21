"""Cases in a running proxy: one process and one origin for all of them."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pymesh.simulated import answer as answers
from pymesh.simulated.http1 import request_octets
from pymesh.simulated.messages import Answered, Asked, Fields
from pymesh.testing.pieces import pieces
from tests.contract.case import Case, Lane, Outcome
from tests.contract.proxies import LOG_LINE, listener, name, outcome
from tests.proxy.bootstrap import access_log, bootstrap, cluster
from tests.proxy.running import Proxy, eventually, lines_of, ours
from tests.tools.ports import free_ports
from tests.tools.serving import serving
from tests.tools.wire import http1
from tests.tools.wire.message import Exchange, whole


class Running:
    """A proxy that has the cases."""

    def __init__(self, proxy: Proxy, cases: Sequence[Case], reached: list[list[Asked]], folder: Path) -> None:
        self._proxy = proxy
        self._cases = list(cases)
        self._reached = reached
        self._folder = folder

    def run(self, case: Case) -> Outcome:
        """What comes of it."""
        number = self._cases.index(case)
        client = self._exchange(case, self._proxy.ports[number])
        log = self._folder / name(number)
        assert eventually(lambda: bool(lines_of(log))), "nothing was logged"
        process = self._proxy.process
        assert eventually(lambda: set(case.printed) <= set(process.output().splitlines())), process.tail()
        asked = next(iter(self._reached[number]), None)
        line, stats = lines_of(log)[0], self._proxy.stats()
        return outcome(number, line, stats, upstream=asked, client=client, output=process.output())

    def _exchange(self, case: Case, port: int) -> Answered:
        received = b""
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for octets in request_octets(case.request, pieces(case.request.body, case.split or None)):
                connection.sendall(octets)
            while True:
                octets = connection.recv(65536)
                received += octets
                answer = answers.read(received, case.request.method, is_over=not octets)
                if answer is not None:
                    return answer
                assert octets, f"no answer: {received!r}"


@contextmanager
def running(cases: Sequence[Case], lane: Lane) -> Iterator[Running]:
    """A proxy with the cases, for the length of the block."""
    reached: list[list[Asked]] = [[] for _ in cases]
    *ports, admin = free_ports(len(cases) + 1)
    with (
        tempfile.TemporaryDirectory(prefix="contract-") as folder,
        serving([_Upstream(case, into) for case, into in zip(cases, reached, strict=True)]) as origins,
    ):
        listeners = [
            listener(case, lane, number, ports[number], access_log(Path(folder) / name(number), LOG_LINE))
            for number, case in enumerate(cases)
        ]
        clusters = [cluster(name(number), [port]) for number, port in enumerate(origins)]
        with ours(bootstrap(listeners, clusters, admin)) as proxy:
            yield Running(proxy, cases, reached, Path(folder))


class _Upstream:
    """Gives a case's answer, and keeps what it was asked."""

    def __init__(self, case: Case, reached: list[Asked]) -> None:
        self._case = case
        self._reached = reached

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await http1.serve(reader, writer, self._handle)

    async def _handle(self, exchange: Exchange) -> None:
        head, answer = exchange.request, self._case.answer
        body = await whole(exchange)
        asked = Asked(
            head.method, head.target, head.authority, Fields(head.headers), body, Fields(list(exchange.trailers))
        )
        self._reached.append(asked)
        headers = answer.headers.items()
        if not answer.trailers and answer.status not in (204, 304):
            headers.append(("content-length", str(len(answer.body))))
        await exchange.respond(answer.status, headers)
        if head.method != "HEAD":
            await exchange.write(answer.body)
        await exchange.end(answer.trailers.items())
