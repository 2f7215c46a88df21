"""Stubs that answer `Context.call` in a harness."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from pymesh.filters.api import Answer, CallError


@dataclass(frozen=True, slots=True)
class Call:
    """What a filter has asked of a cluster."""

    cluster: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Given = Answer | bytes | CallError
Stub = Given | Callable[[Call], Given | Awaitable[Given]]
"""An answer; the body of one with status 200; an error, which is raised; or a function, `async` or not, that gives one
of these. `asyncio.sleep` in it takes no real time."""


class Calls:
    """The clusters that a harness plays."""

    def __init__(self, stubs: Mapping[str, Stub]) -> None:
        self.stubs = dict(stubs)
        #: What was asked, in order.
        self.made: list[Call] = []

    async def answer(
        self, cluster: str, method: str, path: str, headers: Mapping[str, str], body: bytes, within: float | None
    ) -> Answer:
        """What a cluster answers. Raises CallError."""
        call = Call(cluster, method, path, dict(headers), bytes(body))
        self.made.append(call)
        if cluster not in self.stubs:
            raise CallError(f"there is no cluster `{cluster}`", "NC")
        try:
            async with asyncio.timeout(within):
                given = await _given(self.stubs[cluster], call)
        except TimeoutError:
            raise CallError("timeout", "UT") from None
        if isinstance(given, CallError):
            raise given
        return given if isinstance(given, Answer) else Answer(200, {}, given)


async def _given(stub: Stub, call: Call) -> Given:
    if not callable(stub):
        return stub
    given = stub(call)
    return await given if inspect.isawaitable(given) else given
