"""Find every process that came out of a run, by a mark in its environment that children inherit.

A child cannot lose the mark by changing its session, its group, its parent or its command line.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from tests.proxy.running import eventually

_NAME = "PYMESH_TEST_MARK"


class Mark:
    """A mark: `environment` starts a marked process, `processes` finds what is left of it."""

    def __init__(self) -> None:
        self._value = secrets.token_hex(8)

    def environment(self, **more: str) -> dict[str, str]:
        """This process's environment, marked."""
        return {**os.environ, **more, _NAME: self._value}

    def processes(self) -> dict[int, str]:
        """Every live process with the mark: pid -> command line."""
        wanted = f"{_NAME}={self._value}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):  # it ended, or is a zombie, which has no environment any more
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                        found[int(entry.name)] = command.decode(errors="replace").strip()
        return found

    def all_gone(self) -> bool:
        """Whether all of them come to an end."""
        return eventually(lambda: not self.processes())
