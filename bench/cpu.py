"""What a proxy costs: CPU time, memory, and a quota that makes it the bottleneck."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.tools.processes import group

_TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
_PERIOD_US = 5_000
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Used:
    """CPU time of a process group since it started, in microseconds."""

    user: float
    system: float

    def __sub__(self, earlier: Used) -> Used:
        return Used(self.user - earlier.user, self.system - earlier.system)


def used(leader: int) -> Used:
    """CPU time of the group that `leader` leads."""
    user = system = 0
    for pid in group(leader):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system = user + int(fields[11]), system + int(fields[12])
    return Used(user * _TICK_US, system * _TICK_US)


def resident_kib(leader: int) -> int:
    """Resident memory of the group that `leader` leads, in KiB."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in group(leader)) * _PAGE_KIB


def can_limit() -> bool:
    """Whether this process may make control groups with a CPU quota (root, and a writable hierarchy)."""
    return os.access(_parent(), os.W_OK)


@contextmanager
def limited(leader: int, share: float) -> Iterator[None]:
    """Hold the group that `leader` leads to a share of one core, in periods of 5 ms."""
    folder = _parent() / f"bench-{leader}"
    folder.mkdir()
    try:
        quota = int(_PERIOD_US * share)
        if (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))
        for pid in group(leader):
            (folder / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            (folder.parent / "cgroup.procs").write_text(pid)
        _remove(folder)


def _parent() -> Path:
    """The root of the hierarchy that limits CPU: version 1 has one of its own."""
    own = _CGROUP / "cpu"
    return own if own.exists() else _CGROUP


def _remove(folder: Path) -> None:
    for _ in range(50):  # the kernel may take a moment to see that the group is empty
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.02)
        else:
            return
