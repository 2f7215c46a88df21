"""Run a command as an ordinary user who may read what this interpreter needs; `command` has the command line for it.

An interpreter or a checkout may be below a home that is closed to others. In a mount namespace of its own, and nowhere
else, such a folder is replaced by an open one that has nothing in it but what is needed.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

# Run as a program, it finds nothing of ours.
if __name__ != "__main__":
    from tests.tools.peers import peer

USER = 54321


def command(*words: str) -> list[str]:
    """The command line, for root."""
    return [peer("unshare"), "--mount", sys.executable, __file__, *words]


def _closed(path: Path) -> Path | None:
    """The first folder on the way that others may not enter."""
    ways = [*reversed(path.parents), path]
    return next((one for one in ways if not stat.S_IMODE(one.stat().st_mode) & stat.S_IXOTH), None)


def _open(needed: list[Path]) -> None:
    for closed in {found for one in needed if (found := _closed(one)) is not None}:
        inside = [one for one in needed if one.is_relative_to(closed)]
        with tempfile.TemporaryDirectory() as kept:
            for number, one in enumerate(inside):
                (Path(kept) / str(number)).mkdir()
                _mount("--bind", str(one), f"{kept}/{number}")
            _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(closed))
            for number, one in enumerate(inside):
                one.mkdir(parents=True, exist_ok=True)
                _mount("--move", f"{kept}/{number}", str(one))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    _mount("--make-rprivate", "/")
    _open([Path(sys.base_prefix), Path(sys.prefix).resolve(), Path(__file__).resolve().parents[2]])
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    os.execvp(sys.argv[1], sys.argv[1:])
