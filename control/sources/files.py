"""Folders of YAML files as one set of resources: read whole, watched, and replaced whole or not at all.

A change that cannot be used changes nothing: the set that was good stays, and what is wrong is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from watchfiles import awatch

from pymesh.control.resources.diagnostics import Position, Report
from pymesh.control.resources.load import LARGEST_FILE, load_text
from pymesh.control.resources.metadata import Resource

log = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml", ".json")
#: Editors write a file in several steps; this is how long a change must have settled.
DEBOUNCE_MS = 50


def files_of(folders: Iterable[Path], report: Report) -> list[Path]:
    """The resource files in the folders, and those named themselves. Hidden ones are left out."""
    found: dict[Path, None] = {}
    for folder in folders:
        if folder.is_file():
            found[folder] = None
            continue
        if not folder.is_dir():
            report.error(Position(str(folder)), "there is no such folder", "--config names a folder of YAML files")
            continue
        for path in sorted(folder.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.suffix in SUFFIXES and not hidden and path.is_file():
                found[path] = None
    return list(found)


def read(folders: Sequence[Path], report: Report) -> list[Resource]:
    """Every resource of every file, with everything wrong in ``report``."""
    found: list[Resource] = []
    for path in files_of(folders, report):
        try:
            text = _text(path)
        except (OSError, ValueError) as error:
            report.error(Position(str(path)), f"cannot be read: {_reason(error)}")
            continue
        beside = path.parent
        found += load_text(str(path), text, report, lambda name, beside=beside: _text(beside / name))  # type: ignore[misc]
    return found


async def changes(folders: Sequence[Path]) -> AsyncIterator[None]:
    """One item for each settled burst of changes below the folders, until cancelled.

    Where the system cannot notify (some network file systems) the folders are polled.
    """
    stop = asyncio.Event()
    polling = False
    while True:
        watched = [path if path.is_dir() else path.parent for path in folders]
        try:
            async for _ in awatch(
                *watched,
                debounce=DEBOUNCE_MS,
                step=10,
                stop_event=stop,
                force_polling=polling,
                poll_delay_ms=250,
            ):
                yield
            return
        except OSError as error:
            if polling:
                # A folder is gone for the moment, as while another version is moved into its place.
                await asyncio.sleep(0.25)
            else:
                log.warning("file notification failed, polling", extra={"reason": _reason(error)})
                polling = True
            yield


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE} bytes")
    return path.read_text(encoding="utf-8")


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
