"""The application: in the foreground of our terminal if we are, and at its end everything in its group is gone.

It leads a process group of its own. Where we have the terminal we lend it to that group, as a shell does: Ctrl-C and
Ctrl-Z are the application's, once; when it stops, so do we, and when we are continued it is. Its standard streams are
ours, untouched.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

from pymesh.local import process
from pymesh.local.errors import LocalMeshError

#: As shells and `env` have them.
NOT_EXECUTABLE, NOT_FOUND = 126, 127


class CannotStartError(LocalMeshError):
    """There is no such program, or it cannot be run."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Application:
    """See the module."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._argv = argv
        self._env = env
        self._child: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._terminal = _Terminal()

    def start(self) -> None:
        """Raises :class:`CannotStartError`."""
        parent, terminal = os.getpid(), self._terminal
        lends = terminal.foreground() == os.getpgrp()

        def in_child() -> None:
            process.die_with(parent)
            if lends:
                terminal.give(os.getpid())

        try:
            self._child = subprocess.Popen(
                self._argv, env={**os.environ, **self._env}, process_group=0, preexec_fn=in_child
            )
        except (OSError, ValueError) as error:
            if lends:
                terminal.give(os.getpgrp())
            raise cannot_start(self._argv[0], error) from error
        threading.Thread(target=self._watch, args=(asyncio.get_running_loop(),), daemon=True).start()

    async def ended(self) -> int:
        """Until it ends; its exit code, or 128 and the number of the signal that it died of."""
        return await asyncio.shield(self._ended)

    def send(self, number: int) -> None:
        """To the application, and not to what it has started, as in Kubernetes."""
        if self._child is not None and not self._ended.done():
            os.kill(self._child.pid, number)
            if number != signal.SIGSTOP:
                # One that is stopped hears nothing.
                os.kill(self._child.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it and all that it has started, unless that has left its group."""
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def go_on(self) -> None:
        """We were stopped, and are not any more."""
        if self._child is not None and not self._ended.done():
            if self._terminal.foreground() == os.getpgrp():
                self._terminal.give(self._child.pid)
            os.killpg(self._child.pid, signal.SIGCONT)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._child is not None
        pid = self._child.pid
        while True:
            # It is left for the event loop to take: until then its number is nobody else's.
            found = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
            if found is None or found.si_code != os.CLD_STOPPED:
                with suppress(RuntimeError):  # the loop is closed: who asks twice to end does not wait for this
                    loop.call_soon_threadsafe(self._take)
                return
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG)
            loop.call_soon_threadsafe(self._stopped)

    def _take(self) -> None:
        assert self._child is not None
        # Before its number is free for others, which a process group keeps as long as it has members.
        self.kill()
        self._take_terminal()
        code = self._child.wait()
        if not self._ended.done():
            self._ended.set_result(code if code >= 0 else 128 - code)

    def _stopped(self) -> None:
        if self._take_terminal():
            os.kill(0, signal.SIGTSTP)

    def _take_terminal(self) -> bool:
        """Whether the application had it."""
        assert self._child is not None
        if self._terminal.foreground() != self._child.pid:
            return False
        self._terminal.give(os.getpgrp())
        return True


def cannot_start(program: str, error: Exception) -> CannotStartError:
    """What a failed start comes to."""
    if isinstance(error, FileNotFoundError):
        return CannotStartError(NOT_FOUND, f"there is no program {program!r}; hint: install it or correct the command")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return CannotStartError(NOT_EXECUTABLE, f"{program!r} cannot be run: {reason}")


class _Terminal:
    """The terminal that controls us, if there is one."""

    def __init__(self) -> None:
        self._file: int | None = None
        with suppress(OSError):
            self._file = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)

    def foreground(self) -> int | None:
        """The process group that has it."""
        with suppress(OSError):  # it has gone away
            return None if self._file is None else os.tcgetpgrp(self._file)
        return None

    def give(self, group: int) -> None:
        """Put a process group into the foreground; also from a child, between its fork and its exec."""
        if self._file is None:
            return
        # Who is not in the foreground would be stopped by this.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        try:
            with suppress(OSError):
                os.tcsetpgrp(self._file, group)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
