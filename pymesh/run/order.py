"""The order of a pod with a native sidecar: the sidecar is ready before the application starts, and ends after it.

```text
sidecar starts --ready--> application starts --it ends------------------------> sidecar drains and ends
      |                        |                                                   ^
      | not in time            | SIGTERM, SIGINT: drain, notice, the same signal,  |
      v                        +------- grace, SIGKILL ----------------------------+
 125, it never ran
```
The exit code is the application's, 128+n if it died of signal n; ours are those of `env` and `timeout`: 125 when the
sidecar was not to be had, 126 and 127 when the application could not be run. Whatever happens, nothing is left.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pymesh.local.errors import LocalMeshError
from pymesh.run import registration
from pymesh.run.application import Application, CannotStartError, cannot_start
from pymesh.run.registration import Registration
from pymesh.run.settings import Settings
from pymesh.run.sidecar import Sidecar

#: The sidecar was not to be had.
NO_SIDECAR = 125
_ENDING = (signal.SIGTERM, signal.SIGINT)
#: Nothing to us; the application may know what they mean.
_PASSED_ON = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run(settings: Settings, command: Sequence[str]) -> int:
    """Run a command beside a sidecar; the exit code."""
    if shutil.which(command[0]) is None:
        # Told before anything is started. The kernel has the last word when it is.
        error = PermissionError(13, "Permission denied") if Path(command[0]).exists() else FileNotFoundError()
        tell(str(found := cannot_start(command[0], error)))
        return found.code
    with tempfile.TemporaryDirectory(prefix="pymesh-run-") as folder:
        return asyncio.run(_Pod(settings, Path(folder)).run(command))


def tell(text: str) -> None:
    """A line for the person who has started us, on stderr."""
    print(f"pymesh run: {text}", file=sys.stderr, flush=True)  # noqa: T201


class _Pod:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._sidecar = Sidecar(settings, folder, tell)
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._first = asyncio.Event()
        #: Done when a second signal says that it must be over.
        self._now = asyncio.Event()
        self._received: signal.Signals | None = None
        self._registration: Registration | None = None

    async def run(self, command: Sequence[str]) -> int:
        workload = self._settings.workload
        application = Application(command, workload.whereabouts())
        self._watch_signals(application)
        with ExitStack() as stack:
            now = asyncio.create_task(self._now.wait())
            whole = asyncio.create_task(self._whole(application, stack))
            try:
                await asyncio.wait([whole, now], return_when=asyncio.FIRST_COMPLETED)
                if whole.done():
                    return whole.result()
                tell("ended at once, as told")
                return 128 + signal.SIGINT
            except CannotStartError as error:
                tell(str(error))
                await self._sidecar.finish()
                return error.code
            except LocalMeshError as error:
                tell(str(error))
                return NO_SIDECAR
            finally:
                whole.cancel()
                now.cancel()
                application.kill()
                self._sidecar.kill()
                await self._sidecar.gone()

    async def _whole(self, application: Application, stack: ExitStack) -> int:
        settings = self._settings
        if settings.register is not None:
            self._registration = registration.register(settings.workload, settings.register)
            stack.callback(self._registration.withdraw)
        await self._sidecar.start()
        if not await self._first_of(self._sidecar.ready()):
            # Told to end while nothing runs that could lose anything.
            return 128 + (self._received or 0)
        application.start()
        return await self._beside(application)

    async def _beside(self, application: Application) -> int:
        """From the application's start to the sidecar's end."""
        ended = asyncio.create_task(application.ended())
        told = asyncio.create_task(self._first.wait())
        keep = self._sidecar.keep() if self._settings.on_crash == "restart" else self._sidecar.crashed()
        kept = asyncio.create_task(keep)
        try:
            await asyncio.wait([ended, told, kept], return_when=asyncio.FIRST_COMPLETED)
            lost = None
            if not ended.done() and kept.done():
                lost = kept.result()  # or what became of a restart
                tell(f"{lost}\nthe application ends with it")
                self._received = signal.SIGTERM
            if not ended.done():
                await self._end(application, ended, gently=lost is None)
            code = await ended
            await self._sidecar.finish()
            return code if lost is None else NO_SIDECAR
        finally:
            for task in (ended, told, kept):
                task.cancel()

    async def _end(self, application: Application, ended: asyncio.Task[int], *, gently: bool) -> None:
        """The application's end, as it was told to us."""
        times = self._settings.times
        if gently:
            if self._registration is not None:
                self._registration.leave()
            self._sidecar.drain()
            await asyncio.wait([ended], timeout=times.notice)
        if not ended.done():
            application.send(self._received or signal.SIGTERM)
            await asyncio.wait([ended], timeout=times.grace)
        if not ended.done():
            tell(f"the application did not end within {times.grace:g} s and is killed")
            application.kill()

    async def _first_of(self, what: Coroutine[Any, Any, None]) -> bool:
        """Whether it came to its end before we were told to end."""
        task, told = asyncio.create_task(what), asyncio.create_task(self._first.wait())
        try:
            await asyncio.wait([task, told], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return False
            await task
            return True
        finally:
            task.cancel()
            told.cancel()

    def _watch_signals(self, application: Application) -> None:
        loop = asyncio.get_running_loop()

        def end(number: signal.Signals) -> None:
            if self._received is None:
                self._received = number
                self._first.set()
            elif number == signal.SIGINT:
                self._now.set()

        for number in _ENDING:
            loop.add_signal_handler(number, end, number)
        for number in _PASSED_ON:
            # `nohup` and its like have been there before us.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, application.send, number)
        loop.add_signal_handler(signal.SIGCONT, application.go_on)
