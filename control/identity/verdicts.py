"""What somebody else has decided, remembered for a while: the answers of an API server about tokens and rights.

A verdict is fresh for :data:`FRESH_FOR`; then it is asked for again. If nobody can be asked, an old "yes" holds on
until its own end (that of the token), for at most :data:`HELD_FOR`: a mesh goes on while its API server is away. A "no"
is never held: it is forgotten when it is not fresh any more, and has a place of its own: strangers can make up as many
tokens as they like, and must not push out those that were proved. Who asks for the same at the same time waits for one
answer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from pymesh.control.identity.tokens import UnavailableError

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

#: A right that was withdrawn is gone after this long.
FRESH_FOR = timedelta(seconds=60)
#: Of verdicts that have no end of their own.
HELD_FOR = timedelta(hours=24)
#: Verdicts of each of the two kinds that are remembered; the ones that were not asked for the longest go first.
MOST = 20_000


@dataclass(frozen=True, slots=True)
class Verdict(Generic[T]):
    """An answer, and how long it can hold at most."""

    answer: T
    #: It holds in no case beyond this.
    until: datetime
    #: Whether it may be held on to when nobody can be asked.
    is_holding: bool


@dataclass(slots=True)
class _Known(Generic[T]):
    verdict: Verdict[T]
    fresh_until: datetime


class Verdicts(Generic[K, T]):
    """A memory of verdicts by key."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        #: By whether they hold.
        self._known: dict[bool, OrderedDict[K, _Known[T]]] = {True: OrderedDict(), False: OrderedDict()}
        self._asking: dict[K, asyncio.Task[Verdict[T]]] = {}

    async def of(self, key: K, ask: Callable[[], Awaitable[Verdict[T]]]) -> T | None:
        """The answer for a key, from ``ask`` where none is remembered; None if it has ended by now.

        Raises :class:`UnavailableError` if ``ask`` does and nothing holds.
        """
        now = self._clock()
        known = self._known[True].get(key) or self._known[False].get(key)
        if known is not None and now < known.fresh_until:
            self._known[known.verdict.is_holding].move_to_end(key)
            return known.verdict.answer if now < known.verdict.until else None
        try:
            verdict = await self._asked(key, ask)
        except UnavailableError:
            if known is None or not known.verdict.is_holding or self._clock() >= known.verdict.until:
                raise
            # Who asks next need not wait for nobody once more; soon somebody tries again.
            known.fresh_until = self._clock() + FRESH_FOR / 10
            return known.verdict.answer
        return verdict.answer if self._clock() < verdict.until else None

    async def _asked(self, key: K, ask: Callable[[], Awaitable[Verdict[T]]]) -> Verdict[T]:
        task = self._asking.get(key)
        if task is None:
            task = asyncio.ensure_future(self._remembered(key, ask))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._answered(key, done))
        # One who asked and has gone does not take the answer from the others.
        return await asyncio.shield(task)

    def _answered(self, key: K, done: asyncio.Task[Verdict[T]]) -> None:
        del self._asking[key]
        if not done.cancelled():
            done.exception()  # whoever waited for it has it; where all of them have gone nobody needs it

    async def _remembered(self, key: K, ask: Callable[[], Awaitable[Verdict[T]]]) -> Verdict[T]:
        verdict = await ask()
        self._known[not verdict.is_holding].pop(key, None)
        known = self._known[verdict.is_holding]
        known[key] = _Known(verdict, self._clock() + FRESH_FOR)
        known.move_to_end(key)
        while len(known) > MOST:
            known.popitem(last=False)
        return verdict
