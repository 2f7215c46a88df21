"""The `async` lane of a simulated proxy: its hooks live by the proxy's clock, in the thread that has the proxy.

Nothing happens by itself. :meth:`Runner.step` does, at a time, whatever hooks can do at that time, and says when they
have something to do again, so a run comes to the same each time (`rust/python/src/lane.rs` calls it in each turn). Work
for threads, plain hooks among it, is done on the spot and takes no time. What only the outside world could bring is
refused by name: there is no network but the simulated one.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import traceback
import weakref
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from pymesh._bridge.lane import Kept, Tasks, call_plain, log_lost, unlisted
from pymesh._bridge.log import log

if TYPE_CHECKING:
    from pymesh._proxy import Call, Lane

_NANOS = 1_000_000_000
#: Timers that are so near are due.
_RESOLUTION = 1e-9
_Base = asyncio.SelectorEventLoop


def _refuse() -> NoReturn:
    raise RuntimeError("there is no network in a simulated proxy, nor processes\nhint: ask other services by ctx.call")


class Runner:
    """One proxy's lane. Its loop is made when somebody needs it."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane

    @cached_property
    def _loop(self) -> _Loop:
        return _Loop(lambda: self.lane.now)

    @cached_property
    def _tasks(self) -> Tasks:
        return Tasks(self._loop)

    def step(self) -> int | None:
        """Does what can be done now. When there is something to do again, in nanoseconds; None: when there are jobs."""
        for what, of in self.lane.take():
            if what == "begin":
                self._begin(of)
            elif what == "end":
                self._tasks.cancel(of)
            else:
                _settle(*of)
        return self._loop.rest()

    def _begin(self, call: Call) -> None:
        if call.has_ended:
            return
        if call.is_async:
            self._tasks.begin(call)
        else:
            call_plain(call)

    def execute(self, coroutine: Coroutine[Any, Any, Any], _seconds: float) -> Any:
        """Runs it to its end, at one time."""
        task = self._loop.create_task(coroutine)
        self._loop.rest()
        if not task.done():
            task.cancel()
            self._loop.rest()
            raise RuntimeError("it waits for something that does not come while a simulated proxy stands still")
        return task.result()

    def close(self) -> None:
        """Ends what still runs."""
        if "_loop" in vars(self):
            self._loop.end()


class _Loop(Kept, _Base):
    """An event loop that goes on until everybody waits, and whose time is told from outside."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._nanos = now
        self._next: float | None = None
        self._living: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        super().__init__(_Selector(self))
        _Base.set_task_factory(self, self._make_task)  # type: ignore[arg-type]
        _Base.set_exception_handler(self, log_lost)

    def time(self) -> float:
        return self._nanos() / _NANOS

    def rest(self) -> int | None:
        """Goes on until everybody waits. When the first of them wants to be called, in nanoseconds."""
        # Whoever has the proxy may be a coroutine itself.
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            while not self._has_rested():
                pass
        finally:
            asyncio._set_running_loop(outer)
        return None if self._next is None else math.ceil(self._next * _NANOS)

    def _has_rested(self) -> bool:
        try:
            self.run_forever()
        except BaseException as error:  # SystemExit of a task that a hook has left behind it
            log(f"filters: the event loop goes on after {''.join(traceback.format_exception(error))}")
            return False
        return True

    def waits(self, seconds: float | None) -> None:
        """Everybody waits, for so long."""
        self._next = None if seconds is None else self.time() + seconds
        _Base.stop(self)

    def end(self) -> None:
        """Cancels what runs, as far as it lets itself be, and closes the loop."""
        for task in list(self._living):
            task.cancel()
        self.rest()
        _Base.close(self)

    def _make_task(self, loop: Any, coroutine: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:
        task = unlisted(loop, coroutine, **more)
        self._living.add(task)
        return task

    async def _nothing(self, *_arguments: Any, **_named: Any) -> NoReturn:
        _refuse()

    # Before they open anything.
    create_connection = create_server = create_datagram_endpoint = _nothing
    create_unix_connection = create_unix_server = _nothing
    subprocess_exec = subprocess_shell = _nothing

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def __del__(self) -> None:
        # Nobody has to think of an end: nothing of the outside world is held.
        if not self.is_closed():
            _Base.close(self)


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: _Loop) -> None:
        super().__init__()
        self._loop = loop

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        # The first descriptor is the loop's own.
        if self.get_map():
            _refuse()
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > _RESOLUTION:
            self._loop.waits(timeout)
        return []


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
