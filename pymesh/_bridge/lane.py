"""The `async` lane: one event loop for `async def` hooks, and threads for plain ones, beside the workers.

`rust/python/src/lane.rs` is the other side: it says which hook is to be called and takes what comes of it. Whatever a
hook does wrong ends here as a failure of its own call:

* the loop belongs to the lane: a hook that stops or closes it, or gives it other settings, gets a `RuntimeError`;
* no task is listed in `asyncio.all_tasks`, so a hook that cancels all of them reaches its own at most;
* what a task raises that nobody waits for is logged, `SystemExit` included, and the loop goes on;
* each filter has threads of its own (`Pool`), so that one which blocks them holds up no other.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import sys
import threading
import traceback
import weakref
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from pymesh._bridge.log import log
from pymesh.filters.api import Answer

if TYPE_CHECKING:
    from pymesh._proxy import Call, Lane

try:
    from uvloop import Loop as _Loop
except ImportError:  # not on every platform
    from asyncio import SelectorEventLoop as _Loop  # type: ignore[assignment]

_MOST_THREADS = 16
"""Of one pool."""
_IDLE_SECONDS = 10.0
"""A thread without work ends after this long."""

_calls: weakref.WeakKeyDictionary[asyncio.Task[Any], Call] = weakref.WeakKeyDictionary()
"""The calls that tasks were made for."""
_current: contextvars.ContextVar[Call | None] = contextvars.ContextVar("pymesh_filter_call", default=None)
"""The call on whose behalf code runs, in tasks that a hook has left behind it, too."""


class Overrun(BaseException):
    """Raised by the watchdog in a hook that has overrun its time. No `except Exception` of the hook's stops it."""


class Kept:
    """Makes an event loop one that hooks cannot take from each other."""

    def stop(self) -> None:
        raise RuntimeError("the event loop belongs to the proxy: a filter cannot stop it")

    def close(self) -> None:
        raise RuntimeError("the event loop belongs to the proxy: a filter cannot close it")

    def set_task_factory(self, factory: Any) -> None:
        raise RuntimeError("the event loop belongs to the proxy: a filter cannot give it a task factory")

    def set_exception_handler(self, handler: Any) -> None:
        raise RuntimeError("the event loop belongs to the proxy: a filter cannot give it an exception handler")

    def set_default_executor(self, executor: Any) -> None:
        raise RuntimeError("the event loop belongs to the proxy: a filter cannot give it an executor")

    async def shutdown_default_executor(self, *_arguments: Any) -> None:
        raise RuntimeError("the event loop belongs to the proxy: a filter cannot shut down its executor")


class LaneLoop(Kept, _Loop):  # type: ignore[misc]  # as uvloop is typed
    """That of the process."""


class Tasks:
    """The tasks of calls that run on a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._of: dict[int, asyncio.Task[None]] = {}

    def begin(self, call: Call) -> None:
        """Calls an `async def` hook."""
        context = contextvars.Context()
        context.run(_current.set, call)
        task = context.run(self._loop.create_task, _await(call))
        self._of[call.id] = task
        task.add_done_callback(lambda _: self._of.pop(call.id, None))

    def cancel(self, call: Call) -> bool:
        """Cancels its task; false if it has none."""
        task = self._of.get(call.id)
        return task is not None and (task.cancel() or True)


class Runner:
    """The thread with the loop."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.loop = self._make_loop()
        self._tasks = Tasks(self.loop)
        self.thread = threading.Thread(target=self._run, name="filters", daemon=True)
        self.thread.start()

    def _make_loop(self) -> LaneLoop:
        loop = LaneLoop()
        _Loop.set_task_factory(loop, unlisted)  # type: ignore[arg-type]
        _Loop.set_exception_handler(loop, log_lost)
        ear = self.lane.fileno()
        assert ear is not None
        loop.add_reader(ear, self._work)
        return loop

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
            except BaseException as error:  # SystemExit of a task that a hook has left behind it
                log(f"filters: the event loop goes on after {''.join(traceback.format_exception(error))}")

    def _work(self) -> None:
        for what, of in self.lane.take():
            if what == "begin":
                self._begin(of)
            elif what == "end":
                self._end(of)
            else:
                future, answer = of
                _settle(future, answer)

    def _begin(self, call: Call) -> None:
        if call.has_ended:
            return
        if not call.is_async:
            call.pool.submit(call)
            return
        self._tasks.begin(call)

    def _end(self, call: Call) -> None:
        if not self._tasks.cancel(call) and not call.is_async:
            call.pool.forget(call)

    def execute(self, coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """Runs it on the loop and waits for it, from another thread."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(seconds)
        except TimeoutError:
            future.cancel()
            raise


def unlisted(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:
    """A task that nobody finds in `asyncio.all_tasks`: a task factory."""
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **more)
    # Documented under "Task lifetime support" of asyncio's "Extending".
    asyncio.tasks._unregister_task(task)
    call = _current.get()
    if call is not None:
        _calls[task] = call
    return task


async def _await(call: Call) -> None:
    try:
        result = await call.begin()
    except BaseException as error:  # whatever it is, it is this call's
        call.fail(error)
    else:
        call.finish(result)


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    def settle() -> None:
        if future.done():
            return
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    loop = future.get_loop()
    if loop is asyncio.get_running_loop():
        settle()
        return
    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # a loop of its own that it has closed
        return


def log_lost(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """What was raised where nobody waits for it: an exception handler."""
    call = _current.get()
    whose = f"filter {call.filter} (request {call.request_id or '-'})" if call else "filters"
    error = context.get("exception")
    detail = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
    log(f"{whose}: {context.get('message', 'something was lost')}\n{detail}")


class Pool:
    """The threads of one filter's plain hooks. They are made when they are needed, and end when they are not."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: collections.deque[Call] = collections.deque()
        self._idle = 0
        self._threads: set[threading.Thread] = set()
        self._changed = threading.Condition()

    def submit(self, call: Call) -> None:
        with self._changed:
            self._waiting.append(call)
            self._threads = {thread for thread in self._threads if thread.is_alive()}
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif len(self._threads) < _MOST_THREADS:
                thread = threading.Thread(target=self._run, name=f"filter {self._name}", daemon=True)
                self._threads.add(thread)
                thread.start()

    def forget(self, call: Call) -> None:
        """Nobody wants it any more. One that runs already is not stopped."""
        with self._changed:
            self._waiting = collections.deque(one for one in self._waiting if one.id != call.id)

    def _run(self) -> None:
        while True:
            call = self._next()
            if call is None:
                return
            self._call(call)
            del call  # it counts as long as it lives

    def _next(self) -> Call | None:
        with self._changed:
            while not self._waiting:
                self._idle += 1
                try:
                    has_work = self._changed.wait(_IDLE_SECONDS)
                finally:
                    self._idle -= 1
                if not has_work and not self._waiting:
                    self._threads.discard(threading.current_thread())
                    return None
            return self._waiting.popleft()

    @staticmethod
    def _call(call: Call) -> None:
        if call.has_ended:
            return
        call.set_thread(threading.get_ident())
        call_plain(call)


def call_plain(call: Call) -> None:
    """Calls a plain hook."""
    context = contextvars.Context()
    context.run(_current.set, call)
    try:
        result = context.run(call.begin)
    except BaseException as error:  # whatever it is, it is this call's
        call.set_thread(None)
        call.fail(error)
    else:
        call.set_thread(None)
        call.finish(result)


async def ask(
    call: Call,
    cluster: str,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    timeout: float | None,  # noqa: ASYNC109  # the engine's deadline, not the loop's
) -> Answer:
    """`Context.call`."""
    if call.is_simulated and not call.is_async:
        raise RuntimeError(
            "a plain hook cannot wait for an answer where time is simulated\nhint: write it as `async def`"
        )
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    question = call.ask(future, cluster, method, path, list(headers.items()), body, timeout)
    try:
        return await future
    except asyncio.CancelledError:
        call.ask_no_more(question)
        raise


_starting = threading.Lock()
_runner: Runner | None = None


def runner() -> Runner:
    """The lane of this process."""
    global _runner
    with _starting:
        if _runner is None:
            from pymesh._bridge import _extension

            _runner = Runner(_extension().Lane())
        return _runner


def running() -> Lane:
    """What workers give their calls to."""
    return runner().lane


def thread() -> int | None:
    """The thread of the loop."""
    return _runner.thread.ident if _runner is not None else None


def current() -> Call | None:
    """The call whose task runs on the loop now."""
    task = asyncio.current_task(_runner.loop) if _runner is not None else None
    return _calls.get(task) if task is not None else None


def stack_of(ident: int) -> str:
    """Where a thread is."""
    frame = sys._current_frames().get(ident)
    return "".join(traceback.format_stack(frame)) if frame is not None else "  (it runs no Python)\n"
