"""Run a program for as long as a `with` block lasts.

Invariants: the block starts only once the program accepts connections on every port that it was asked to serve; when
the block ends, the program and everything it started are gone, also if the test died first; what it printed is kept
and is part of every error.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # looked up before any fork: nothing may be loaded in the child


class NotReady(RuntimeError):
    """A program ended, or did not listen in time; carries the tail of its log."""


class Running:
    """A started program. `pid` leads a process group of its own."""

    def __init__(self, title: str, child: subprocess.Popen[bytes], log: Path) -> None:
        self.title = title
        self.child = child
        self.log = log

    @property
    def pid(self) -> int:
        """The program's process id, which is also the id of its process group."""
        return self.child.pid

    def alive(self) -> bool:
        """Whether the program still runs."""
        return self.child.poll() is None

    def output(self) -> str:
        """Everything printed so far, both streams in the order written."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 30) -> str:
        """The end of the output, for error messages."""
        return "\n".join(self.output().splitlines()[-lines:])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone."""
        self.child.send_signal(number)

    def wait(self, timeout: float) -> int:
        """The exit status; raises `subprocess.TimeoutExpired`."""
        return self.child.wait(timeout)

    def wait_for_ports(self, ports: Sequence[int], timeout: float) -> None:
        """Return once every port accepts; raise if the program ends or time runs out."""
        deadline = time.monotonic() + timeout
        for port in ports:
            while not accepts(port):
                if not self.alive():
                    raise NotReady(f"{self.title} ended with {self.child.returncode}:\n{self.tail()}")
                if time.monotonic() > deadline:
                    raise NotReady(f"{self.title} does not listen on {port} after {timeout} s:\n{self.tail()}")
                time.sleep(0.02)

    def stop(self, grace: float = 5.0) -> None:
        """Ask the whole group to end, then make it."""
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                break
            try:
                self.child.wait(patience)
            except subprocess.TimeoutExpired:
                continue
        self.child.wait()


@contextmanager
def running(
    argv: Sequence[str],
    *,
    title: str | None = None,
    ports: Sequence[int] = (),
    timeout: float = 20.0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Start `argv`, wait until it accepts on `ports`, and end it with the block."""
    name = title or Path(argv[0]).name
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        log = Path(folder) / "output.log"
        with log.open("wb") as sink:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=cwd or folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        process = Running(name, child, log)
        try:
            process.wait_for_ports(ports, timeout)
            yield process
        finally:
            process.stop()


def accepts(port: int) -> bool:
    """Whether something accepts TCP connections there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def group(pid: int) -> list[int]:
    """Every live process in the group that `pid` leads: the program, its workers and their children."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended between the listing and the read
                continue
            if int(fields[2]) == pid and fields[0] != "Z":
                members.append(int(entry.name))
    return members


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
