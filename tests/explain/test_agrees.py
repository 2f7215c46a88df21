"""A thousand random requests through a running mesh, and explained: the same answers, details, routes and clusters."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pymesh.explain.admin import AdminSource
from pymesh.explain.files import FileSource
from pymesh.explain.question import Question, request_octets
from pymesh.explain.story import tell
from pymesh.explain.told import split
from pymesh.explain.walk import Trace, Walker
from pymesh.local import http, meshfile
from pymesh.local.plan import Workload
from pymesh.local.runner import Options, Runner
from pymesh.simulated import answer as answers
from tests.explain.random_mesh import CALLERS, DOOR, RAW, USHER, Maker, write_mesh
from tests.proxy.running import lines_of
from tests.tools.ports import free_port

ROUNDS = 10
REQUESTS = 1000

#: Istio's line, as far as it is compared.
_LINE = re.compile(
    r'\[[^\]]*\] "(?P<request>[^"]*)" (?P<status>\d+) (?P<flags>\S+) (?P<details>\S+) (?P<termination>\S+) "[^"]*" '
    r'\S+ \S+ \S+ \S+ "[^"]*" "(?:case-(?P<case>\d+)|-)" "[^"]*" "(?P<authority>[^"]*)" "(?P<upstream>[^"]*)" '
    r"(?P<cluster>\S+) \S+ (?P<local>\S+) \S+ \S+ (?P<route>\S+)"
)
_COMPARED = ("status", "flags", "details", "termination", "authority", "upstream", "cluster", "route")

#: Of a request: its answer's status (None: closed), and what each proxy on its way logged. Of a connection to the raw
#: service nothing in a log tells which it was: what is logged of those is compared proxy by proxy, in order.
Outcome = tuple[int | None, list[tuple[str, ...]]]
Connections = dict[str, list[tuple[str, ...]]]


def test_it_does_what_explain_says(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    seed: int = request.config.getoption("--seed")
    port = free_port()
    maker = Maker(seed, port)
    write_mesh(tmp_path / "mesh")
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    with _running(tmp_path, port) as (runner, loop):
        for number in range(ROUNDS):
            documents = maker.documents(number)
            questions = [maker.question() for _ in range(REQUESTS // ROUNDS)]
            _configure(runner, documents, number, loop)
            done, connections = _send(runner, questions, first_case=number * REQUESTS)
            source = FileSource([*runner.config, runner.folder / "generated"])
            walker = Walker(source, seed=seed)
            expected: Connections = {}
            for question, (case, really) in zip(questions, done.items(), strict=True):
                trace = walker.ask(_marked(question, case))
                said = _outcome(trace, expected)
                kinds[_kind(question, said)] += 1
                assert tell(trace, source, walker.names).why
                if said != really:
                    wrong.append(f"round {number} {question}:\n  said   {said}\n  really {really}")
            if expected != connections:
                wrong.append(f"round {number}, connections:\n  said   {expected}\n  really {connections}")
        # The control plane's own pages tell the same as the files that it reads.
        over_admin = Walker(AdminSource(f"127.0.0.1:{runner.control_admin}"), seed=seed)
        for question, (case, really) in list(zip(questions, done.items(), strict=True))[:30]:
            if _outcome(over_admin.ask(_marked(question, case)), {}) != really:
                wrong.append(f"by the admin pages: {question}")
    shown = "\n".join(wrong[:10])
    assert not wrong, f"seed {seed}: {len(wrong)} of {REQUESTS}:\n{shown}"
    assert sum(kinds.values()) == REQUESTS
    wanted = ("passed", "denied", "local", "closed", "by gateway", "token refused", "asked")
    wanted += ("connection passed", "connection closed")
    assert min(kinds[one] for one in wanted) > REQUESTS / 100, kinds


def _kind(question: Question, outcome: Outcome) -> str:
    status, hops = outcome
    if question.service == RAW:
        return "connection passed" if status else "connection closed"
    details = " ".join(part for hop in hops for part in hop)
    if "jwt_authn_access_denied" in details:
        return "token refused"
    if any(name == USHER for name, *_ in hops):
        return "asked"
    if status is None:
        return "closed"
    if "rbac_access_denied" in details:
        return "denied"
    return "by gateway" if question.sender == DOOR else "passed" if status == 200 else "local"


def _marked(question: Question, case: int) -> Question:
    return replace(question, headers=(*question.headers, ("user-agent", f"case-{case}")))


def _outcome(trace: Trace, connections: Connections) -> Outcome:
    hops = []
    for passage in trace.passages:
        for record in passage.records:
            logged = tuple(_shown(record.get(name)) for name in _COMPARED)
            if record.get("method") is None:
                connections.setdefault(passage.member.name, []).append(logged)
            else:
                hops.append((passage.member.name, *logged))
    return trace.answer.status if trace.answer else None, sorted(hops)


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


# --- the mesh that runs -----------------------------------------------------------------------------------------------


@contextmanager
def _running(folder: Path, port: int) -> Iterator[tuple[Runner, asyncio.AbstractEventLoop]]:
    mesh = meshfile.read(folder / "mesh")
    (folder / "run").mkdir()
    runner = Runner(mesh, folder / "run", Options())
    # Something that can be loaded, until the first round.
    _write(runner.mesh.config[0] / "all.yaml", Maker(0, port).documents(-1))
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(runner.start(lambda _: None))
        yield runner, loop
    finally:
        loop.run_until_complete(runner.stop())
        loop.close()


def _write(file: Path, documents: Sequence[Mapping[str, Any]]) -> None:
    staged = file.with_suffix(".new")
    staged.write_text(yaml.safe_dump_all(documents))
    staged.replace(file)


def _configure(
    runner: Runner, documents: Sequence[Mapping[str, Any]], number: int, loop: asyncio.AbstractEventLoop
) -> None:
    """Change the configuration and wait until every proxy has it."""
    _write(runner.config[0] / "all.yaml", documents)
    for workload in runner.plan:
        marks = [f"policy[round-{number}]", *([f"r{number}-"] if workload.name in (*CALLERS, DOOR) else [])]
        deadline = time.monotonic() + 60
        while True:
            dump = loop.run_until_complete(http.get(workload.admin_port, "/config_dump")).body.decode()
            if all(mark in dump for mark in marks):
                break
            assert time.monotonic() < deadline, f"{workload.name} never got round {number}: {_control_log(runner)}"
            time.sleep(0.02)


def _control_log(runner: Runner) -> str:
    return (runner.folder / "logs" / "control.log").read_text()[-2000:]


def _send(runner: Runner, questions: Sequence[Question], first_case: int) -> tuple[dict[int, Outcome], Connections]:
    """Sends each, one after the other, and reads the proxies' logs."""
    by_name = {workload.name: workload for workload in runner.plan}
    logs = {one.name: runner.folder / "logs" / f"{one.proxy_name}.log" for one in runner.plan}
    before = {name: len(lines_of(log)) for name, log in logs.items()}
    statuses: dict[int, int | None] = {}
    for case, question in enumerate(questions, first_case):
        statuses[case] = _exchange(_port(by_name, question), _marked(question, case))
    # Logs are written a moment later; whatever has come is in them once this has stood still for longer than that.
    seen, quiet_since = -1, time.monotonic()
    while time.monotonic() - quiet_since < 0.5:
        hops: dict[int, list[tuple[str, ...]]] = {case: [] for case in statuses}
        connections: Connections = {}
        for name, log in logs.items():
            for match in filter(None, map(_LINE.match, lines_of(log)[before[name] :])):
                logged = tuple(match[part] for part in _COMPARED)
                if match["case"] is None:
                    connections.setdefault(name, []).append(logged)
                else:
                    hops[int(match["case"])].append((name, *logged))
        count = sum(map(len, (*hops.values(), *connections.values())))
        if count != seen:
            seen, quiet_since = count, time.monotonic()
        time.sleep(0.05)
    return {case: (statuses[case], sorted(hops[case])) for case in statuses}, connections


def _port(by_name: Mapping[str, Workload], question: Question) -> int:
    if question.port is not None:
        return question.port
    if question.sender != "none":
        return by_name[question.sender].outbound[question.service]
    # Of several endpoints, the first: as explain says it does.
    return by_name["reviews-v1" if question.service == "reviews" else question.service].inbound[0].sidecar


def _exchange(port: int, question: Question) -> int | None:
    host = question.host or f"{question.service}.shop.svc.cluster.local"
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(request_octets(question, host))
        while True:
            answer = answers.read(received, question.method, is_over=False)
            if answer is not None:
                return answer.status
            try:
                piece = client.recv(65536)
            except ConnectionResetError:
                return None
            if not piece:
                last = answers.read(received, question.method, is_over=True)
                return last.status if last else None
            received += piece


def test_addresses_come_apart() -> None:
    assert split("127.0.0.1:80") == ("127.0.0.1", 80)
    assert split("[::1]:80") == ("::1", 80)
