"""Files that only their owner may read: written whole or not at all, checked before they are trusted."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE_MODE = 0o600


class InsecureFileError(Exception):
    """A file with a secret in it can be read by others."""


def write(path: Path, content: bytes, *, mode: int = PRIVATE_MODE) -> None:
    """Replace ``path`` atomically."""
    staged = _stage(path, content, mode)
    try:
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def create(path: Path, content: bytes) -> bool:
    """Create ``path`` with ``content``; False, and nothing changed, when it exists already.

    The file appears complete or not at all, and of several processes exactly one creates it.
    """
    staged = _stage(path, content, PRIVATE_MODE)
    try:
        os.link(staged, path)
    except FileExistsError:
        return False
    finally:
        staged.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def read(path: Path, *, limit: int = 1 << 20) -> bytes:
    """The content of a private file. Raises :class:`InsecureFileError` when others can read or change it."""
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise InsecureFileError(f"{path}: mode {mode:04o} lets others at a secret; hint: chmod 600 {path}")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InsecureFileError(f"{path}: larger than {limit} bytes")
    return content


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What is another when ``path`` was replaced or written to; None when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def owner_only() -> Iterator[None]:
    """Whatever this process creates meanwhile, as a socket, nobody else can open from the moment it exists."""
    mask = os.umask(0o777 & ~PRIVATE_MODE)
    try:
        yield
    finally:
        os.umask(mask)


def _stage(path: Path, content: bytes, mode: int) -> Path:
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return staged


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
