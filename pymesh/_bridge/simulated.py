"""A proxy without sockets, threads and clock: the parts of the proxy that serves, driven by whoever holds it.

What is true of the interface is said in ``rust/app/src/simulated.rs``; here it gets its types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pymesh._bridge import ProxyError, _extension


@dataclass(frozen=True, slots=True)
class Connect:
    """The proxy wants a connection to an address (``IP:PORT``)."""

    connection: int
    address: str


@dataclass(frozen=True, slots=True)
class Send:
    """Octets for the peer of a connection."""

    connection: int
    octets: bytes


@dataclass(frozen=True, slots=True)
class ShutdownWrite:
    """No more octets will come."""

    connection: int


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is over, both ways."""

    connection: int


Effect = Connect | Send | ShutdownWrite | Close


@dataclass(frozen=True, slots=True)
class Listening:
    """A listener in force."""

    key: int
    name: str
    address: str


class SimulatedProxy:
    """One proxy. Times are nanoseconds since an origin at which the wall clock was ``unix_nanos``."""

    def __init__(self, bootstrap: str, *, seed: int, unix_nanos: int) -> None:
        """With Envoy's bootstrap as text. Raises :class:`ProxyError`."""
        try:
            self._native: Any = _extension().SimulatedProxy(bootstrap, seed, unix_nanos)
        except RuntimeError as error:
            raise ProxyError(str(error)) from None

    def hear(self, response: bytes) -> list[str]:
        """Take in an encoded DeltaDiscoveryResponse. Returns what was refused of it."""
        refused: list[str] = self._native.hear(response)
        return refused

    def wait(self, seconds: float) -> list[str]:
        """Wait so long for configuration that has not come; then what there is goes live."""
        problems: list[str] = self._native.wait(seconds)
        return problems

    @property
    def listeners(self) -> list[Listening]:
        """The listeners in force."""
        return [Listening(*one) for one in self._native.listeners()]

    def accept(self, listener: int, remote: str, local: str, *, is_redirected: bool = False) -> int | None:
        """A client has connected; ``local`` is the address that it wanted. None: it is turned away."""
        connection: int | None = self._native.accept(listener, remote, local, is_redirected)
        return connection

    def connected(self, connection: int, local: str) -> None:
        """A connection that was asked for is there."""
        self._native.connected(connection, local)

    def receive(self, connection: int, octets: bytes) -> None:
        """Octets have arrived."""
        self._native.receive(connection, octets)

    def end_of_input(self, connection: int) -> None:
        """Nothing more comes."""
        self._native.end_of_input(connection)

    def failed(self, connection: int, reason: str) -> None:
        """A connection could not be made, or was reset."""
        self._native.failed(connection, reason)

    def turn(self, now: int) -> list[Effect]:
        """Do everything that can be done now."""
        return [_effect(*one) for one in self._native.turn(now)]

    @property
    def next_timeout(self) -> int | None:
        """When there is something to do even if nothing arrives."""
        timeout: int | None = self._native.next_timeout()
        return timeout

    def take_log(self) -> bytes:
        """Access log lines since the last time."""
        lines: bytes = self._native.take_log()
        return lines

    @property
    def stats(self) -> dict[str, int]:
        """Counters and gauges by their names in `/stats`."""
        lines = (line.rpartition(": ") for line in self._native.stats().splitlines())
        return {name: int(value) for name, _, value in lines}

    def take_decisions(self) -> Sequence[dict[str, Any]]:
        """What was decided since the last time (``rust/engine/src/decisions.rs``), by ``kind``."""
        decisions: list[dict[str, Any]] = self._native.take_decisions()
        return decisions


def _effect(kind: str, connection: int, value: Any) -> Effect:
    match kind:
        case "connect":
            return Connect(connection, value)
        case "send":
            return Send(connection, value)
        case "shutdown":
            return ShutdownWrite(connection)
    return Close(connection)
