# ruff: noqa
"""A filter that does everything wrong that it is told to. Its text is the source of the filters under test."""

import asyncio
import gc
import signal
import sys
import threading
import time

from pymesh.filters import HttpFilter, Reply


class Own(BaseException):
    pass


class Evil:
    def __getattr__(self, name):
        raise Own(name)

    def __str__(self):
        raise Own("str")

    __repr__ = __str__


class Unprintable(Exception):
    def __str__(self):
        raise Own("str")


def generator():
    yield 1


async def coroutine():
    return None


class Awaitable:
    def __await__(self):
        yield 1


RAISED = {
    "raise-exception": ValueError("as it was told to"),
    "raise-own-base": Own("as it was told to"),
    "raise-keyboard-interrupt": KeyboardInterrupt(),
    "raise-system-exit": SystemExit(3),
    "raise-generator-exit": GeneratorExit(),
    "raise-stop-iteration": StopIteration(),
    "raise-stop-async-iteration": StopAsyncIteration(),
    "raise-cancelled": asyncio.CancelledError(),
    "raise-memory-error": MemoryError(),
    "raise-unprintable": Unprintable(),
    "raise-group": BaseExceptionGroup("both", [SystemExit(1), ValueError("x")]),
}
NONSENSE = {
    "return-number": lambda: 7,
    "return-true": lambda: True,
    "return-text": lambda: "text",
    "return-bytes": lambda: b"bytes",
    "return-list": lambda: [],
    "return-dict": lambda: {"status": 200},
    "return-object": object,
    "return-class": lambda: Reply,
    "return-function": lambda: print,
    "return-exception": lambda: ValueError("x"),
    "return-generator": generator,
    "return-evil": Evil,
    "return-status-99": lambda: Reply(99),
    "return-status-1000": lambda: Reply(1000),
    "return-status-text": lambda: Reply("200"),
    "return-body-text": lambda: Reply(200, "text"),
    "return-headers-list": lambda: Reply(200, b"", [("a", "b")]),
    "return-headers-number": lambda: Reply(200, b"", {"a": 1}),
    "return-headers-split": lambda: Reply(200, b"", {"a": "b\r\nc: d"}),
}


def recurse():
    return recurse()


def spin():
    while True:
        try:
            sum(range(1000))
        except Exception:
            pass


def end_thread():
    sys.exit()


def wrong(do):
    """What both kinds of hooks can do."""
    if do in RAISED:
        raise RAISED[do]
    if do in NONSENSE:
        return NONSENSE[do]()
    if do == "recurse":
        recurse()
    if do == "exit":
        sys.exit(1)
    if do == "block":
        time.sleep(1.5)
    if do == "spin":
        spin()
    if do == "signal":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if do == "new-loop-closed":
        loop = asyncio.new_event_loop()
        loop.close()
        loop.run_forever()
    if do == "steal-stderr":
        if sys.stderr is not None:
            sys.stderr.close()
        sys.stderr = sys.stdout = None
    if do == "thread-raises":
        thread = threading.Thread(target=end_thread)
        thread.start()
        thread.join()
    if do == "collect":
        gc.collect()
    return None


async def fails():
    raise ValueError("in a task")


async def exits():
    sys.exit(1)


kept = []


class Inline(HttpFilter):
    def on_request_headers(self, request, ctx):
        return wrong(request.headers.get("x-do"))


class Plain(HttpFilter):
    lane = "async"

    def on_request_headers(self, request, ctx):
        do = request.headers.get("x-do")
        if do == "coroutine":
            return coroutine()
        return wrong(do)


class Async(HttpFilter):
    lane = "async"

    async def on_request_headers(self, request, ctx):
        do = request.headers.get("x-do")
        loop = asyncio.get_running_loop()
        if do == "wait-for-ever":
            await asyncio.Event().wait()
        if do == "ignore-cancel":
            until = time.monotonic() + 3
            while time.monotonic() < until:
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    pass
        if do == "cancel-itself":
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        if do == "await-nonsense":
            await Awaitable()
        if do == "close-loop":
            loop.close()
        if do == "stop-loop":
            loop.stop()
        if do == "stop-loop-behind-its-back":
            type(loop).__mro__[2].stop(loop)
            await asyncio.sleep(0.05)
        if do == "task-factory":
            loop.set_task_factory(None)
        if do == "exception-handler":
            loop.set_exception_handler(None)
        if do == "kill-pool":
            await loop.shutdown_default_executor()
        if do == "kill-pool-thread":
            await asyncio.to_thread(end_thread)
        if do == "cancel-all":
            for task in asyncio.all_tasks():
                task.cancel()
            await asyncio.sleep(0)
        if do == "tasks-that-raise":
            kept.extend([loop.create_task(fails()), loop.create_task(exits())])
            await asyncio.sleep(0.05)
        if do == "callback-exits":
            loop.call_soon(sys.exit, 1)
            await asyncio.sleep(0.05)
        if do == "keep":
            kept.append(request)
            return None
        if do == "use":
            kept.pop().headers.get("x-do")
        return wrong(do)


class Victim(HttpFilter):
    """Waits on the loop while others misbehave."""

    lane = "async"

    async def on_request_headers(self, request, ctx):
        await asyncio.sleep(0.2)
        return Reply(299)
