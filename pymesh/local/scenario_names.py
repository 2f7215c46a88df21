"""Whether the names in scenarios are those of the mesh: who asks, who is asked, whose numbers are looked at.

It is known before anything is started, so a misspelt name is told with its place, and with every other one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pymesh.control.resources.diagnostics import ConfigError, Position, Report, did_you_mean
from pymesh.local import plan
from pymesh.local.meshfile import LocalMesh
from pymesh.local.plan import Workload
from pymesh.local.scenario import Scenario, ScenarioError, Send, Step


def check(mesh: LocalMesh, scenarios: Iterable[Scenario]) -> None:
    """Raises :class:`ScenarioError` with every name that the mesh, with the scenarios' apps, does not have."""
    known = _Known(mesh)
    report = Report()
    for one in scenarios:
        for step in one.spec.steps:
            for at, message, hint in known.wrong(step):
                report.error(at, message, hint)
    if report.failed:
        raise ScenarioError(str(ConfigError(report.diagnostics)))


class _Known:
    """The names of a mesh."""

    def __init__(self, mesh: LocalMesh) -> None:
        self._workloads = {one.name: one for one in plan.workloads(mesh, port=lambda: 0)}
        self._processes = {*self._workloads, *(one.proxy_name for one in self._workloads.values())}
        self._apps = {one.name for one in mesh.apps} | {one.name for one in self._workloads.values() if one.app}
        self._has_gateway = bool(mesh.gateways)

    def wrong(self, step: Step) -> Iterator[tuple[Position, str, str]]:
        """What is not there, with its place and a remedy."""
        for name in sorted(set(step.processes) - self._processes):
            yield step.place("processes"), f"there is no process {name!r}", did_you_mean(name, self._processes)
        for name in sorted(set(step.behave) - self._apps):
            yield step.place("behave"), f"there is no app {name!r}", did_you_mean(name, self._apps)
        for expected in step.expect:
            if expected.of and expected.of not in self._workloads:
                yield expected.place("of"), *self._no_workload(expected.of)
        if step.send is not None:
            yield from self._wrong_way(step.send)

    def _wrong_way(self, send: Send) -> Iterator[tuple[Position, str, str]]:
        if send.direct:
            called = self._workloads.get(send.direct)
            if called is None:
                yield send.place("direct"), *self._no_workload(send.direct)
            elif called.app is None:
                hint = "leave out 'direct': the gateway is asked then"
                yield send.place("direct"), f"{send.direct!r} is a gateway, which has no sidecar", hint
        elif send.to:
            caller = self._workloads.get(send.source)
            if caller is None:
                yield send.place("from"), *self._no_workload(send.source)
            elif send.to not in _calls(caller):
                yield (
                    send.place("to"),
                    f"{send.source} does not call {send.to!r}",
                    did_you_mean(send.to, _calls(caller), otherwise=f"add it to 'calls' of the app {send.source!r}"),
                )
        elif not self._has_gateway:
            yield send.at, "the mesh has no gateway", "name the sender with 'from' and 'to'"

    def _no_workload(self, name: str) -> tuple[str, str]:
        return f"there is no workload {name!r}", did_you_mean(name, self._workloads)


def _calls(workload: Workload) -> tuple[str, ...]:
    return workload.app.calls if workload.app else ()
