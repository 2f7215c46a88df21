"""Free loopback ports, for processes that are told where to listen.

Ports come from below the range that the kernel gives to outgoing connections: between the choice here and the
process's own bind, no connection of somebody else can take one. Nor can another mesh: each takes its ports from blocks
that are its own, which it says by a name that the kernel keeps for it, per network namespace, as long as it runs.
"""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

from pymesh.local.errors import LocalMeshError

_FIRST = 20000
_BLOCK = 64
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Ports:
    """Gives out ports, none of them twice. To be closed when nothing listens on them any more."""

    def __init__(self) -> None:
        self._left: list[int] = []
        self._claims: list[socket.socket] = []

    def take(self) -> int:
        """A port that nobody listens on."""
        while True:
            while self._left:
                port = self._left.pop()
                if is_free(port):
                    return port
            self._left = self._claim()

    def close(self) -> None:
        """Let others have the ports."""
        for claim in self._claims:
            claim.close()

    def _claim(self) -> list[int]:
        """The ports of a block that no other mesh has."""
        last = _lowest_ephemeral()
        blocks = list(range(_FIRST, last - _BLOCK + 1, _BLOCK))
        # Meshes that come and go do not ask for the same ones again and again.
        random.shuffle(blocks)
        for first in blocks:
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0pymesh-ports-{first}")
            except OSError:
                claim.close()
                continue
            self._claims.append(claim)
            return list(range(first, first + _BLOCK))
        raise LocalMeshError(f"no free port between {_FIRST} and {last}")


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
