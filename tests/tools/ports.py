"""Free ports on loopback, for programs that have to be told a number.

They lie below the kernel's ephemeral range, so that no outgoing connection of a test can take a port between the
moment it was found free and the moment its program binds it; the start is random, so that test runs side by side
seldom look at the same one, and the workers of one run (pytest-xdist) never do: each has a part of them. From 20,000 up
are the ports of local meshes (`pymesh/local/ports.py`).
"""

from __future__ import annotations

import os
import random
import socket
from collections import deque

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PART = (20_000 - 10_000) // _WORKERS
_LOW = 10_000 + _PART * _WORKER
_HIGH = _LOW + _PART
#: Those that may not be bound yet.
_given: deque[int] = deque(maxlen=500)


def free_port() -> int:
    """One port that nothing listens on and that this process has not given out lately."""
    return free_range(1)


def free_ports(count: int) -> list[int]:
    """Several ports, not necessarily neighbours."""
    return [free_port() for _ in range(count)]


def free_range(length: int) -> int:
    """The first of `length` neighbouring free ports."""
    for _ in range(1_000):
        first = random.randrange(_LOW, _HIGH - length)
        wanted = range(first, first + length)
        if not any(port in _given for port in wanted) and all(_is_free(port) for port in wanted):
            _given.extend(wanted)
            return first
    raise RuntimeError(f"no {length} neighbouring free ports between {_LOW} and {_HIGH}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do; a connection of the last run in TIME_WAIT does not make the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
