"""Tells a control plane on this machine of a workload, by a file in its configuration while the workload runs.

In a cluster Kubernetes does this. The file holds a WorkloadEntry and a Sidecar. Its first line names the process that
has made it: what one that was killed has left is replaced, another that runs is not.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from pymesh.local import config, resources
from pymesh.local.errors import LocalMeshError
from pymesh.local.plan import Workload

_OWNER = re.compile(r"# pymesh run, process (\d+)\n")


@dataclass(slots=True)
class Registration:
    """The file of a workload, once it is there."""

    workload: Workload
    file: Path

    def leave(self) -> None:
        """Callers are sent elsewhere from now on; the sidecar keeps its listeners, for those who have not heard."""
        self._write([one for one in resources.describe(self.workload) if one["kind"] != "WorkloadEntry"])

    def withdraw(self) -> None:
        """Nothing is known of it any more."""
        self.file.unlink(missing_ok=True)

    def _write(self, found: list[resources.Resource]) -> None:
        text = f"# pymesh run, process {os.getpid()}\n{yaml.safe_dump_all(found, sort_keys=False)}"
        config.write_text(self.file, text)


def register(workload: Workload, folder: Path) -> Registration:
    """Raises :class:`LocalMeshError`."""
    if not folder.is_dir():
        raise LocalMeshError(
            f"--register: there is no folder {folder}; hint: one that the control plane's --config names"
        )
    file = folder / f"workload-{workload.name}.yaml"
    owner = _owner(file)
    if owner is not None:
        raise LocalMeshError(f"{workload.name} runs already, as process {owner}; hint: give this one another --name")
    made = Registration(workload, file)
    try:
        made._write(resources.describe(workload))
    except OSError as error:
        raise LocalMeshError(f"--register: {file}: {error.strerror}") from error
    return made


def _owner(file: Path) -> int | None:
    """The process that has written the file, if it still runs."""
    with suppress(OSError):
        found = _OWNER.match(file.read_text())
        if found is None:
            raise LocalMeshError(
                f"{file} was not written by `pymesh run`; hint: move it away, or choose another --name"
            )
        with suppress(ProcessLookupError, PermissionError):
            os.kill(int(found[1]), 0)
            return int(found[1])
    return None
