"""An event loop whose time passes only when nothing else is left to do.

Whoever sleeps ten seconds on it sleeps none: the clock is moved to the next timer as soon as every task waits. For
threads and sockets the clock stands still, because nobody can know how long they take.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._now = 0.0
        self._working = 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Seconds that have passed."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Nobody has anything to do for so long."""
        self._now += seconds

    @property
    def works(self) -> bool:
        """Whether a thread works for a task."""
        return self._working > 0

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Let a thread work; until it is done the clock stands."""
        self._working += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._worked)
        return future

    def __del__(self) -> None:
        # Nobody has to think of an end: nothing of the outside world is held.
        if not self.is_closed():
            self.close()

    def _worked(self, _: object) -> None:
        self._working -= 1


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found: list[tuple[selectors.SelectorKey, int]]
        if timeout is not None and timeout <= 0:
            found = super().select(timeout)
            return found
        # One descriptor is the loop's own, by which threads wake it.
        if self._loop.works or len(self.get_map()) > 1:
            found = super().select(None)
            return found
        found = super().select(0)
        if not found and timeout is None:
            raise RuntimeError("the filter waits for something that nobody does")
        if not found and timeout is not None:
            self._loop.advance(timeout)
        return found
