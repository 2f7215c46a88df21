"""Access log filters: the lines that ours and Envoy write of the same requests, and those that CEL itself would choose.

Each expression of a Telemetry becomes Envoy's filters (`control/translate/access_logs.py`). Both proxies get those, and
Envoy in another log the expression as it is, for its interpreter of CEL: all three choose the same requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pymesh.control.resources import expression
from pymesh.control.translate import access_logs
from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools.ports import free_port
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Aborted, Headers, Request
from tests.tools.wire.origin import origin

KINDS = ("envoy", "pymesh")
CEL = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"

EXPRESSIONS = [
    "response.code >= 400",
    "response.code > 404",
    "response.code < 400",
    "response.code <= 403 && response.code >= 201",
    "response.code == 404",
    "response.code != 404",
    "!(response.code >= 400)",
    "400 > response.code",
    "request.method == 'POST'",
    "request.method != 'POST'",
    "request.path == '/a?b=c'",
    "request.path.startsWith('/a')",
    "request.path.endsWith('c')",
    "request.path.contains('?')",
    "request.path.matches('^/(a|b)')",
    "request.path.matches('b|c$')",
    "request.url_path == '/a'",
    "request.url_path != '/a'",
    "request.url_path.startsWith('/a')",
    "request.host == 'a.test'",
    "request.headers['x-user'] == 'ann'",
    "request.headers['x-user'] != 'ann'",
    "!(request.headers['x-user'] == 'ann')",
    "!(request.headers['x-user'] != 'ann')",
    "'x-user' in request.headers",
    "!('x-user' in request.headers)",
    "request.headers['x-user'].startsWith('a') || response.code == 404",
    "request.headers['x-user'] == 'ann' && (response.code == 200 || request.method == 'POST')",
    "!(request.headers['x-user'] == 'ann' && response.code == 200)",
    "!(request.headers['x-user'] == 'ann' || request.method == 'POST')",
    "request.useragent == 'curl'",
    "request.duration >= duration('1s')",
    "request.duration < duration('1s')",
    "!(request.duration < duration('1s'))",
    "response.flags != 0",
    "response.grpc_status == 14",
    "response.grpc_status != 0",
    "response.grpc_status == 12",
]


@dataclass(frozen=True, eq=False)
class Case:
    """A request; its number is in the log."""

    path: str = "/a"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    wants: tuple[str, ...] = ()
    host: str = "a.test"


GRPC = (("content-type", "application/grpc"), ("te", "trailers"))
CASES = [
    Case(),
    Case("/a?b=c"),
    Case("/b/c"),
    Case("/ab", host="b.test"),
    Case(method="POST"),
    Case(headers=(("x-user", "ann"),)),
    Case(headers=(("x-user", "bob"), ("user-agent", "curl"))),
    Case(method="POST", headers=(("x-user", "ann"),)),
    Case(wants=("status=404",)),
    Case(wants=("status=403",), headers=(("x-user", "ann"),)),
    Case(wants=("status=500",)),
    Case(wants=("status=201",)),
    Case("/nowhere"),
    Case("/down"),
    Case(wants=("delay=1.5",)),
    Case(wants=("reset=before",)),
    Case(headers=GRPC, wants=("header=grpc-status=0",)),
    Case(headers=GRPC, wants=("header=grpc-status=14",)),
]


@dataclass
class Logged:
    """What each log has: for each expression the numbers of the requests that it tells."""

    folder: Path
    proxies: dict[str, Proxy]

    def numbers(self, log: str, index: int) -> list[int]:
        file = self.folder / f"{log}-{index}"
        return sorted(int(line) for line in file.read_text().split()) if file.exists() else []


def _log(folder: Path, name: str, index: int, chosen: Json) -> Json:
    return {**access_log(folder / f"{name}-{index}", "%REQ(x-case)%\n"), "filter": chosen}


def _logs(folder: Path, kind: str) -> list[Json]:
    made = [access_log(folder / f"{kind}-all", "%REQ(x-case)%\n")]
    for index, text in enumerate(EXPRESSIONS):
        made.append(_log(folder, kind, index, access_logs.filter_of(expression.condition(text))))
        if kind == "envoy":
            config = {"@type": CEL, "expression": text}
            cel = {"name": "envoy.access_loggers.extension_filters.cel", "typed_config": config}
            made.append(_log(folder, "cel", index, {"extension_filter": cel}))
    return made


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    folder = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        behind = stack.enter_context(origin("a"))
        proxies, down = {}, free_port()
        for kind in KINDS:
            hosts = [virtual_host("all", [to_cluster("down", "/down"), to_cluster("a", "/a"), to_cluster("a", "/b")])]
            listener = http_listener(free_port(), hosts, access_log=_logs(folder, kind))
            clusters = [cluster("a", [behind.port]), cluster("down", [down])]
            proxies[kind] = stack.enter_context(proxy(kind, bootstrap([listener], clusters, free_port())))
        for started in proxies.values():
            for number, case in enumerate(CASES):
                wants: Headers = [("x-want-" + one.split("=", 1)[0], one.split("=", 1)[1]) for one in case.wants]
                headers = [("x-case", str(number)), *case.headers, *wants]
                with suppress(Aborted):
                    fetch(started.port, Request(case.method, case.path, case.host, headers), b"")
        for kind in KINDS:
            file = folder / f"{kind}-all"
            assert eventually(lambda file=file: len(file.read_text().split()) == len(CASES))  # type: ignore[misc]
        yield Logged(folder, proxies)


@pytest.mark.parametrize("index", range(len(EXPRESSIONS)), ids=EXPRESSIONS)
def test_the_same_requests_are_told(logged: Logged, index: int) -> None:
    # Envoy writes each file by itself.
    settled = lambda: logged.numbers("envoy", index) == logged.numbers("cel", index)  # noqa: E731
    eventually(settled, timeout=2)
    cel, envoy, ours = (logged.numbers(log, index) for log in ("cel", "envoy", "pymesh"))
    assert envoy == cel, "Envoy's filters say something else than its CEL"
    assert ours == envoy
    assert 0 < len(ours) < len(CASES), "the requests do not show what it asks for"
