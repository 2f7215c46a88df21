"""Scenarios on a running mesh: one after the other, each from the mesh as its files describe it.

For each step: change the configuration, the processes and the apps; send; judge. What is expected must come true within
the step's time, so a step's requests are sent again until it has, and the last verdict counts. Afterwards everything is
put back: the configuration, the processes that were ended, the apps that were told to misbehave.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import quote

from pymesh.control.identity import operator
from pymesh.local import certificates, http, judge, sending, stats
from pymesh.local.errors import LocalMeshError
from pymesh.local.judge import Received, Verdict
from pymesh.local.meshfile import EVERYTHING
from pymesh.local.overlay import Overlay
from pymesh.local.plan import Workload
from pymesh.local.runner import Runner
from pymesh.local.scenario import Expectation, Scenario, Send, Step

#: How soon a step whose expectation does not hold is looked at again.
_AGAIN_S = 0.2
#: Longer than a configuration needs to reach every proxy, where nothing that follows would show it.
_SETTLED_S = 10.0


@dataclass(frozen=True, slots=True)
class Result:
    """One step, and what was seen of each expectation."""

    scenario: str
    step: str
    verdicts: tuple[Verdict, ...]

    @property
    def held(self) -> bool:
        """All of it."""
        return all(one.holds for one in self.verdicts)

    @property
    def seen(self) -> str:
        """For people: what broke, or what was seen."""
        shown = [one.seen for one in self.verdicts if not one.holds] or [one.seen for one in self.verdicts]
        return "; ".join(shown) or "done"


@dataclass(slots=True)
class Stage:
    """A mesh on which scenarios are played."""

    runner: Runner
    _overlay: Overlay = field(init=False)
    _authority: certificates.Authority = field(init=False)
    _misbehaving: set[str] = field(default_factory=set)
    _touched: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        folder = self.runner.folder
        ports = {f"{one.name}.{port.name}": port for one in self.runner.plan for port in one.inbound}
        numbers = {name: port.app for name, port in ports.items()}
        numbers |= {f"{name}.sidecar": port.sidecar for name, port in ports.items()}
        self._overlay = Overlay(self.runner.config, folder / "originals", self.runner.gateway_port, numbers)
        self._authority = certificates.Authority(folder / "gateway-authority.pem")

    async def play(self, scenario: Scenario) -> AsyncGenerator[Result, None]:
        """Each step's result. The mesh is as it was when the generator has ended, or was closed."""
        spec = scenario.spec
        secrets = [self._authority.secret(name, hosts) for name, hosts in spec.certificates.items()]
        try:
            self._overlay.apply([*secrets, *scenario.resources], self.runner.mesh.namespace)
            for step in spec.steps:
                yield Result(scenario.name, step.title, await self._step(step))
        finally:
            await self._restore()

    async def _step(self, step: Step) -> tuple[Verdict, ...]:
        before = await self._marks(step.expect)
        if step.apply:
            self._overlay.apply(step.apply, self.runner.mesh.namespace)
        if step.remove:
            self._overlay.remove(step.remove, self.runner.mesh.namespace)
        for name, what in step.processes.items():
            await self._process(name, what)
        for app, query in step.behave.items():
            await self._behave(app, query)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + step.within.total_seconds()
        early = await self._begin_phase(step, deadline) if step.authority else []
        while True:
            received = [*early, *(await self._send(step.send) if step.send is not None else [])]
            verdicts = await self._judge(step.expect, received, before)
            if all(one.holds for one in verdicts) or loop.time() >= deadline:
                return verdicts
            await asyncio.sleep(_AGAIN_S)
            if not step.authority:
                before = await self._marks(step.expect)

    async def _begin_phase(self, step: Step, deadline: float) -> Sequence[Received]:
        """Begin a phase of a root rotation, and what was received until it had begun."""
        phase, received = step.authority or "", list[Received]()
        while True:
            try:
                await asyncio.to_thread(operator.ask, self.runner.state, phase)
                return received
            except operator.RefusedError as refused:
                if asyncio.get_running_loop().time() > deadline:
                    raise LocalMeshError(f"{step.at}: {phase}: {refused}") from refused
            except OSError as error:
                raise LocalMeshError(f"{step.at}: {phase}: {error}") from error
            if step.send is not None:
                received += await self._send(step.send)
            await asyncio.sleep(_AGAIN_S)

    async def _send(self, send: Send) -> Sequence[Received]:
        return await sending.send(send, self._target(send))

    def _target(self, send: Send) -> sending.Target:
        if send.to:
            return self._outbound(self._workload(send.source), send)
        if send.direct:
            called = self._workload(send.direct)
            port = called.inbound[0].sidecar
            return sending.Target(port, f"{called.address}:{port}", self._authority.file, called.address)
        gateways = list(self.runner.gateway_ports.values())
        if send.port is None and not gateways:
            raise LocalMeshError(f"{send.at}: the mesh has no gateway; hint: name the sender with 'from' and 'to'")
        port = gateways[0] if send.port is None else self.runner.gateway_port(send.port)
        return sending.Target(port, f"127.0.0.1:{port}", self._authority.file)

    def _outbound(self, caller: Workload, send: Send) -> sending.Target:
        """Where the workload finds a service that it calls: a port of its sidecar, or the service's name."""
        calls = caller.app.calls if caller.app else ()
        if send.to not in calls:
            known = ", ".join(sorted(calls)) or "nothing"
            raise LocalMeshError(f"{send.at}: {send.source} calls {known}, not {send.to!r}")
        if not caller.is_captured:
            return sending.Target(caller.outbound[send.to], send.to, self._authority.file)
        name, port = send.to, caller.named.get(send.to, 80)
        if send.to == EVERYTHING:
            host = next(value for name, value in send.headers.items() if name.lower() == "host")
            name, _, written = host.partition(":")
            port = int(written or 80)
        return sending.Target(port, send.to, self._authority.file, name, caller.network)

    async def _judge(
        self, expected: Sequence[Expectation], received: Sequence[Received], before: Mapping[Expectation, int]
    ) -> tuple[Verdict, ...]:
        # What a proxy logs and counts of a request it may write a moment after the answer; an answer does not change.
        for _ in range(10):
            verdicts = tuple([await self._verdict(one, received, before) for one in expected])
            broken = [wanted for wanted, one in zip(expected, verdicts, strict=True) if not one.holds]
            if not broken or not all(wanted.of for wanted in broken):
                break
            await asyncio.sleep(0.1)
        return verdicts

    async def _verdict(
        self, wanted: Expectation, received: Sequence[Received], before: Mapping[Expectation, int]
    ) -> Verdict:
        if wanted.of:
            return judge.of_count(wanted, await self._count(wanted) - before[wanted])
        failures = [one.failure for one in received if one.failure]
        verdict = judge.of_answers(wanted, received)
        if verdict.holds or not failures:
            return verdict
        return Verdict(False, f"{verdict.seen}; {len(failures)} without an answer: {failures[0]}")

    async def _marks(self, expectations: Sequence[Expectation]) -> dict[Expectation, int]:
        """Where what proxies count stands now. Gauges are judged by what they are, not by what was added."""
        return {one: 0 if _is_gauge(one) else await self._count(one) for one in expectations if one.of}

    async def _count(self, wanted: Expectation) -> int:
        workload = self._workload(wanted.of)
        if wanted.stat is not None:
            try:
                page = (await http.get(workload.admin_port, "/stats", namespace=workload.network)).body.decode()
            except http.HttpError:
                return 0
            return sum(value for name, value in _stats(page) if fnmatchcase(name, wanted.stat))
        if wanted.metric is not None:
            pages = await stats.scrape([workload])
            found = [sample for page in pages for sample in stats.samples(page)]
            return sum(
                int(v) for name, labels, v in found if name == wanted.metric and wanted.labels.items() <= labels.items()
            )
        log = self.runner.process(workload.proxy_name).command.log
        pattern = re.compile(wanted.log or "")
        return sum(1 for line in log.read_text(errors="replace").splitlines() if pattern.search(line))

    async def _process(self, name: str, what: str) -> None:
        try:
            process = self.runner.process(name)
        except KeyError:
            raise LocalMeshError(f"there is no process {name!r} to {what}") from None
        self._touched.add(name)
        match what:
            case "kill":
                process.kill()
                await process.wait()
            case "pause":
                process.pause()
            case "resume":
                process.resume()
            case "start":
                await self.runner.restart(name)

    async def _behave(self, app: str, query: str) -> None:
        """Tell every replica of an app how to answer."""
        replicas = [one for one in self.runner.plan if one.app is not None and app in (one.app.name, one.name)]
        if not replicas:
            raise LocalMeshError(f"there is no app {app!r}")
        for workload in replicas:
            path = f"/_behave?{quote(query, safe='=&')}"
            answer = await http.get(workload.inbound[0].app, path, namespace=workload.network)
            if answer.status != 200:
                raise LocalMeshError(f"{workload.name} does not take {query!r}: {answer.body[:200]!r}")
        self._misbehaving.add(app)
        if not query:
            self._misbehaving.discard(app)

    async def _restore(self) -> None:
        for name in sorted(self._touched):
            self.runner.process(name).resume()
            await self.runner.restart(name)
        self._touched.clear()
        for app in sorted(self._misbehaving):
            with suppress(http.HttpError):
                await self._behave(app, "")
        self._overlay.restore()
        await self._settled()

    async def _settled(self) -> None:
        """Until every proxy has acknowledged what the control plane has sent, twice in a row."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SETTLED_S
        await asyncio.sleep(0.3)
        while loop.time() < deadline:
            page = (await http.get(self.runner.control_admin, "/debug/syncz")).body
            if b'"synced": false' not in page:
                return
            await asyncio.sleep(0.1)

    def _workload(self, name: str) -> Workload:
        for workload in self.runner.plan:
            if workload.name == name:
                return workload
        known = ", ".join(workload.name for workload in self.runner.plan)
        raise LocalMeshError(f"there is no workload {name!r}; known: {known}")


def _is_gauge(wanted: Expectation) -> bool:
    """By Envoy's names: what is now, in contrast to what was counted."""
    last = (wanted.stat or "").rpartition(".")[2]
    return (
        last.endswith(("_active", "_open"))
        or last.startswith(("remaining_", "membership_"))
        or last in ("healthy", "degraded")
    )


def _stats(page: str) -> list[tuple[str, int]]:
    """Name and value of each counter and gauge on Envoy's page."""
    found = []
    for line in page.splitlines():
        name, _, value = line.rpartition(": ")
        if value.isdecimal():
            found.append((name, int(value)))
    return found
