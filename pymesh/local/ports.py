"""Free loopback ports, for processes that are told where to listen.

Ports come from below the range that the kernel gives to outgoing connections: between the choice here and the
process's own bind, no connection of somebody else can take one.
"""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

from pymesh.local.errors import LocalMeshError

_FIRST = 20000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Ports:
    """Gives out ports, none of them twice."""

    def __init__(self, randomness: random.Random | None = None) -> None:
        self._random = randomness or random.Random()
        self._given: set[int] = set()
        self._last = _lowest_ephemeral()

    def take(self) -> int:
        """A port that nobody listens on."""
        for _ in range(10_000):
            port = self._random.randrange(_FIRST, self._last)
            if port not in self._given and is_free(port):
                self._given.add(port)
                return port
        raise LocalMeshError(f"no free port between {_FIRST} and {self._last}")


def is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        # As servers do: what the last run left in TIME_WAIT does not make a port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen()
        except OSError as error:
            if error.errno == errno.EACCES:
                raise LocalMeshError(
                    f"port {port} needs root; hint: choose a port from 1024 up, or --port 0 for a free one"
                ) from error
            if error.errno == errno.EADDRINUSE:
                return False
            raise LocalMeshError(f"cannot listen on {address}:{port}: {error.strerror}") from error
    return True


def require_free(port: int, what: str) -> None:
    """Raise the one clear line if `port`, which a user chose for `what`, is taken."""
    if not is_free(port):
        raise LocalMeshError(
            f"port {port} on 127.0.0.1, for {what}, is in use; "
            f"hint: stop what listens there (`ss -ltnp 'sport = :{port}'` names it), or use --port 0 for a free one"
        )


def _lowest_ephemeral() -> int:
    try:
        lowest = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
    # A machine that widened the range leaves nothing below it; then any port is as good as another.
    return lowest if lowest > _FIRST + 2000 else 60999
