"""A case of the contract: a filter, a request, an upstream's answer, and what has to come of it.

Whoever runs a case gives an `Outcome`; `judge` says what of it is not as expected. Only what a case names is compared,
since a proxy adds headers of its own.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pymesh.simulated.messages import Answered, Asked, Fields

Wanted = Mapping[str, str | None]
#: A runner of cases.
Runner = Literal["harness", "simulator", "proxy"]
ALL: tuple[Runner, ...] = ("harness", "simulator", "proxy")
#: Who calls the hooks: the worker, a thread beside it, or an event loop, for which they are written as coroutines.
Lane = Literal["inline", "threads", "coroutines"]
#: Each runner has all of them.
LANES: tuple[Lane, ...] = ("inline", "threads", "coroutines")
#: A hook's definition. That of the log is plain in each lane.
_HOOK = re.compile(r"^def (on_(?!log)\w+|setup|close)\(", re.MULTILINE)
#: Whoever waits in a coroutine lets others go on.
_SLEEP = re.compile(r"\btime\.sleep\(")

#: Whatever a filter prints goes where a proxy's tracebacks go.
_MODULE = """\
from __future__ import annotations
import asyncio, sys, time
from dataclasses import dataclass
from pymesh.filters import *

def say(text): print(text, file=sys.stderr, flush=True)

{module}

class Probe(HttpFilter):
{body}
"""


@dataclass(frozen=True)
class Case:
    """See the module. `body` is that of the class `Probe`, `module` stands above it."""

    name: str
    body: str
    request: Asked = field(default_factory=lambda: Asked("GET", "/", "service.test"))
    #: Pieces in which the request's body is sent.
    split: Sequence[int] = ()
    answer: Answered = field(default_factory=Answered)
    config: Mapping[str, Any] = field(default_factory=dict)
    policy: Literal["CLOSED", "OPEN"] = "CLOSED"
    timeout: float | None = None
    module: str = ""

    #: Whether something reaches the upstream, and what: a header -> its values joined by `, `, or None if it has none;
    #: `:method`, `:path`, `:authority` likewise.
    reached: bool = True
    upstream: Wanted = field(default_factory=dict)
    upstream_body: bytes | None = None
    upstream_trailers: Wanted = field(default_factory=dict)
    #: What the client gets.
    status: int = 200
    client: Wanted = field(default_factory=dict)
    client_body: bytes | None = None
    client_trailers: Wanted = field(default_factory=dict)
    #: Of the access log.
    flags: str = "-"
    details: str = "via_upstream"
    #: The route, where the runner has routes: `gold` is for requests with `x-tier: gold`, `plain` for all others.
    route: str | None = None
    #: How many calls of hooks fail.
    failures: int = 0
    #: What the filter prints, line by line: its `on_log` has no other way to be seen.
    printed: Sequence[str] = ()
    #: Whether the request enters the filter; None: runners see it differently.
    entered: bool | None = True
    #: Who runs it; a case that leaves one out says why.
    by: tuple[Runner, ...] = ALL
    #: Where it means the same.
    lanes: tuple[Lane, ...] = LANES
    #: `module:Class` of the filter where it was compiled; its source is given otherwise.
    compiled: str = ""

    def source(self, lane: Lane) -> str:
        """The filter's module, for a lane."""
        body = textwrap.dedent(self.body).strip("\n")
        if lane != "inline":
            body = f'lane = "async"\n{body}'
        if lane == "coroutines":
            body = _SLEEP.sub("await asyncio.sleep(", _HOOK.sub(r"async def \1(", body))
        body = textwrap.indent(body, "    ")
        return _MODULE.format(module=textwrap.dedent(self.module), body=body)


@dataclass(frozen=True)
class Outcome:
    """What came of a case; None: the runner cannot tell."""

    upstream: Asked | None
    client: Answered
    flags: str | None
    details: str | None
    route: str | None
    failures: int | None
    entered: bool | None
    #: What the whole run has printed.
    output: str = ""


def judge(case: Case, outcome: Outcome) -> list[str]:
    """What is not as expected."""
    wrong = []

    def compare(what: str, expected: object, found: object) -> None:
        if expected != found:
            wrong.append(f"{what}: expected {expected!r}, found {found!r}")

    def fields(what: str, expected: Wanted, found: Fields) -> None:
        for name, value in expected.items():
            values = found.getall(name)
            compare(f"{what} {name}", value, ", ".join(values) if values else None)

    compare("reached the upstream", case.reached, outcome.upstream is not None)
    if outcome.upstream is not None:
        asked = outcome.upstream
        pseudo = [(":method", asked.method), (":path", asked.path), (":authority", asked.authority)]
        fields("upstream", case.upstream, Fields([*pseudo, *asked.headers.items()]))
        fields("upstream trailer", case.upstream_trailers, asked.trailers)
        if case.upstream_body is not None:
            compare("upstream body", case.upstream_body, asked.body)
    compare("status", case.status, outcome.client.status)
    fields("client", case.client, outcome.client.headers)
    fields("client trailer", case.client_trailers, outcome.client.trailers)
    if case.client_body is not None:
        compare("client body", case.client_body, outcome.client.body)
    compare("flags", case.flags, outcome.flags)
    compare("details", case.details, outcome.details)
    if outcome.route is not None and case.route is not None:
        compare("route", case.route, outcome.route)
    for line in case.printed:
        compare(f"prints {line!r}", True, line in outcome.output.splitlines())
    compare("failures", case.failures, outcome.failures)
    if case.entered is not None:
        compare("entered", case.entered, outcome.entered)
    return wrong
