"""The mesh that files describe: the last good store, and each proxy's messages from it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pymesh.control.resources.diagnostics import Report
from pymesh.control.sources import files
from pymesh.control.sources.stored import StoredMesh
from pymesh.control.store.store import MeshOptions, assemble

log = logging.getLogger(__name__)


class FileMesh(StoredMesh):
    """Users' configuration in folders, kept current."""

    def __init__(self, folders: Sequence[Path], options: MeshOptions | None = None) -> None:
        super().__init__(options)
        self._folders = tuple(folders)

    def load(self) -> list[str]:
        """Read everything. Returns all errors; with any, what was in use stays in use."""
        report = Report()
        resources = files.read(self._folders, report)
        store = assemble(resources, self._options, report)
        self._found = report.diagnostics
        if report.failed:
            self._refused_since = self._refused_since or datetime.now(UTC)
            return [str(one) for one in report.diagnostics if one.severity == "error"]
        self._use(store, resources)
        for one in report.diagnostics:
            log.warning(str(one))
        return []

    async def synced(self) -> None:
        """Files are read at once."""

    async def watch(self, changed: Callable[[], None]) -> None:
        """Follow the folders until cancelled; call ``changed`` after every change of what is in use."""
        async for _ in files.changes(self._folders):
            # Parsing takes long enough to hold up the streams, so it happens beside them.
            try:
                errors = await asyncio.to_thread(self.load)
            except Exception:
                # A fault of ours must not end what still serves the last good configuration.
                log.exception("the configuration cannot be read, the last good one stays in use")
                continue
            if errors:
                log.error("configuration refused, the last good one stays in use\n%s", "\n".join(errors))
            else:
                changed()
