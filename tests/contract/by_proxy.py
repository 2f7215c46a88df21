"""Cases in a running proxy: one process and one origin for all of them."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pymesh.simulated import answer as answers
from pymesh.simulated.http1 import request_octets
from pymesh.simulated.messages import Answered, Asked, Fields
from pymesh.testing.pieces import pieces
from tests.contract.case import Case, Lane, Outcome
from tests.contract.proxies import LOG_LINE, listener, name, outcome
from tests.proxy.bootstrap import access_log, bootstrap, cluster
from tests.proxy.running import eventually, lines_of, ours
from tests.tools.ports import free_ports
from tests.tools.serving import serving
from tests.tools.wire import http1
from tests.tools.wire.message import Exchange, whole


def run(cases: Sequence[Case], lane: Lane) -> dict[str, Outcome | Exception]:
    """What comes of each, by name. All are sent side by side; what was logged and counted is read once."""
    reached: list[list[Asked]] = [[] for _ in cases]
    numbers = range(len(cases))
    *ports, admin = free_ports(len(cases) + 1)
    with (
        tempfile.TemporaryDirectory(prefix="contract-") as folder,
        serving([_Upstream(case, into) for case, into in zip(cases, reached, strict=True)]) as origins,
    ):
        logs = [Path(folder) / name(number) for number in numbers]
        listeners = [
            listener(case, lane, number, ports[number], access_log(logs[number], LOG_LINE))
            for number, case in enumerate(cases)
        ]
        clusters = [cluster(name(number), [port]) for number, port in enumerate(origins)]
        with ours(bootstrap(listeners, clusters, admin)) as proxy:
            with ThreadPoolExecutor(8) as pool:
                clients = list(pool.map(_answer, cases, ports))
            wanted = {line for case in cases for line in case.printed}
            eventually(lambda: all(map(lines_of, logs)) and wanted <= set(proxy.process.output().splitlines()), 60)
            stats, output = proxy.stats(), proxy.process.output()
        lines = [lines_of(log) for log in logs]
    outcomes: dict[str, Outcome | Exception] = {}
    for number, (case, client) in enumerate(zip(cases, clients, strict=True)):
        if isinstance(client, Answered) and lines[number]:
            asked = next(iter(reached[number]), None)
            found = outcome(number, lines[number][0], stats, upstream=asked, client=client, output=output)
            outcomes[case.name] = found
        else:
            outcomes[case.name] = client if isinstance(client, Exception) else AssertionError("nothing was logged")
    return outcomes


def _answer(case: Case, port: int) -> Answered | Exception:
    try:
        return _exchange(case, port)
    except (OSError, AssertionError) as error:
        return error


def _exchange(case: Case, port: int) -> Answered:
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
