"""One supervised process: its output goes to a file, and it never outlives us.

A child leads a process group of its own, so that a terminal's Ctrl-C reaches only us and we end the group in our order;
and the kernel kills the child if we die without a word (`PR_SET_PDEATHSIG`).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pymesh.capture.namespace import NetworkNamespace
from pymesh.local.errors import LocalMeshError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # looked up before any fork: nothing may be loaded in the child

GRACE_S = 4.0
TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a process."""

    name: str
    argv: Sequence[str]
    log: Path
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    #: Where it runs; None: where we do.
    network: NetworkNamespace | None = None


class Process:
    """A started process."""

    def __init__(self, command: Command, child: asyncio.subprocess.Process) -> None:
        self.command = command
        self._child = child

    @property
    def name(self) -> str:
        """What the mesh calls it."""
        return self.command.name

    @property
    def pid(self) -> int:
        """Its id, and that of the group that it leads."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._child.returncode

    async def wait(self) -> int:
        """Until it ends."""
        return await self._child.wait()

    def kill(self) -> None:
        """End the whole group at once, as a crash would."""
        self._signal(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """A signal to the whole group."""
        self._signal(number)

    def pause(self) -> None:
        """Freeze the whole group, as a machine that hangs."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    async def stop(self, grace: float = GRACE_S) -> None:
        """Ask the whole group to end, then make it. Ends with the process gone, also when cancelled."""
        self._signal(signal.SIGTERM)
        self.resume()
        try:
            async with asyncio.timeout(grace):
                await self._child.wait()
        except TimeoutError:
            pass
        finally:
            # What the process left behind in its group goes too.
            self._signal(signal.SIGKILL)
        await self._child.wait()

    def tail(self) -> str:
        """The end of its output."""
        try:
            lines = self.command.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  | {line[:400]}" for line in lines[-TAIL_LINES:])

    def ended(self) -> str:
        """One line about how it ended, and its last words."""
        code = self.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        return f"{self.name} {how}; its log is {self.command.log}\n{self.tail()}".rstrip()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def die_with(parent: int) -> None:
    """In a child, between fork and exec: its end is that of its parent's thread that has forked it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


async def start(command: Command) -> Process:
    """Start it. Raises :class:`LocalMeshError` when there is no such program."""
    parent = os.getpid()

    def in_child() -> None:
        die_with(parent)
        if command.network is not None:
            command.network.enter()

    with command.log.open("ab") as sink:
        try:
            child = await asyncio.create_subprocess_exec(
                *command.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=command.cwd,
                env={**os.environ, **command.env},
                start_new_session=True,
                preexec_fn=in_child,
            )
        except FileNotFoundError:
            raise LocalMeshError(
                f"{command.name}: there is no program {command.argv[0]!r}; hint: install it or correct the command"
            ) from None
        except OSError as error:
            raise LocalMeshError(f"{command.name}: {command.argv[0]}: {error.strerror}") from error
    return Process(command, child)
