"""Where the control plane of a running `pymesh up` is: told to the operator's commands of the same user.

`pymesh up` takes a free port, so that several meshes can run side by side. Each writes its address into a file of its
own in the user's runtime directory and holds a lock on it for as long as it runs: a file whose lock is free was left by
one that was killed, and says nothing. The directory is the user's own and nobody else's, or it is not believed.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Announced:
    """One mesh that runs."""

    #: ``HOST:PORT`` of the control plane's admin pages.
    admin: str
    #: The folder of its mesh file, for people.
    mesh: str


@contextmanager
def announced(admin: str, mesh: str, user: int) -> Iterator[None]:
    """Tell a user (ourselves, seen from outside of a user namespace) of a mesh for the length of a block. Without a
    directory for it nobody is told.
    """
    file, held = _told(user, admin, mesh)
    try:
        yield
    finally:
        if held is not None:
            file.unlink(missing_ok=True)
            held.close()
            with suppress(OSError):
                file.parent.rmdir()  # unless others are there


def _told(user: int, admin: str, mesh: str) -> tuple[Path, TextIO | None]:
    """The file, and what holds its lock; None: nobody can be told."""
    folder = _folder(user)
    # A port is one mesh's at a time; in a namespace of processes every mesh is process 1.
    file = (folder or Path()) / f"up-{admin.rpartition(':')[2]}.json"
    if folder is None:
        return file, None
    # Whoever looks in between takes what is not locked for left over: so it gets its name once it is.
    staged = file.with_suffix(".new")
    try:
        held = staged.open("w")
    except OSError:
        return file, None
    fcntl.flock(held, fcntl.LOCK_EX)
    json.dump({"admin": admin, "mesh": mesh}, held)
    held.flush()
    staged.replace(file)
    return file, held


def found() -> list[Announced]:
    """Every mesh of this user that runs, by address."""
    folder = _folder(os.getuid())
    made = [_read(file) for file in folder.glob("up-*.json")] if folder is not None else []
    return sorted((one for one in made if one is not None), key=lambda one: one.admin)


def _read(file: Path) -> Announced | None:
    try:
        with file.open() as opened:
            with suppress(BlockingIOError):
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
                file.unlink(missing_ok=True)  # nobody holds it any more
                return None
            said = json.load(opened)
            return Announced(str(said["admin"]), str(said["mesh"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _folder(user: int) -> Path | None:
    """The user's own, made if it is missing; None: there is none that nobody else could write to."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "pymesh" if runtime else Path(tempfile.gettempdir()) / f"pymesh-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        known = folder.lstat()
    except OSError:
        return None
    is_own = stat.S_ISDIR(known.st_mode) and known.st_uid == os.getuid() and not known.st_mode & 0o022
    return folder if is_own else None
