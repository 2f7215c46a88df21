"""A network of simulated proxies: links between two ends each, and a time that passes only when nobody can do anything.

An end is a connection of a proxy, or something in Python that speaks. What one end sends has arrived at the other at
once and in order, so a run depends on nothing but its proxies, their seeds and what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from pymesh._bridge.simulated import Close, Connect, Effect, Send, ShutdownWrite, SimulatedProxy
from pymesh.control.config import Address

NANOS = 1_000_000_000
#: Turns without any time passing after which a run counts as endless.
_ENDLESS = 100_000


class End(Protocol):
    """One end of a link: what reaches it."""

    def receive(self, octets: bytes) -> None:
        """Octets of the other end."""

    def end_of_input(self) -> None:
        """Nothing more comes from there."""


@dataclass(eq=False, slots=True)
class Node:
    """A proxy with its place in the network."""

    name: str
    #: From which it connects.
    ip: str
    proxy: SimulatedProxy
    links: dict[int, End] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a connection to an address comes out: at a listener of a proxy."""

    node: Node
    listener: int
    #: The address that the client wanted.
    local: str
    #: Whether the kernel has led it to the listener.
    is_redirected: bool = False


#: A server in Python: given the end of whoever has connected, its own.
Server = Callable[[End], End]


@dataclass(frozen=True, slots=True)
class _ProxyEnd:
    network: Network
    node: Node
    connection: int

    def receive(self, octets: bytes) -> None:
        self.node.proxy.receive(self.connection, octets)
        self.network.wake(self.node)

    def end_of_input(self) -> None:
        self.node.proxy.end_of_input(self.connection)
        self.network.wake(self.node)


@dataclass(eq=False, slots=True)
class Dialled:
    """Something in Python that has connected to a proxy: what came back, and its way of speaking to it."""

    peer: End | None
    received: bytearray = field(default_factory=bytearray)
    is_over: bool = False

    def receive(self, octets: bytes) -> None:
        """Octets of the proxy."""
        self.received += octets

    def end_of_input(self) -> None:
        """The proxy has closed."""
        self.is_over = True

    def send(self, octets: bytes) -> None:
        """Octets for the proxy."""
        if self.peer is not None:
            self.peer.receive(octets)

    def close(self) -> None:
        """End the connection."""
        if self.peer is not None:
            self.peer.end_of_input()


class Network:
    """Everybody's links, and the clock."""

    def __init__(self, lands: Callable[[Node, str], Landing | Server | None]) -> None:
        """``lands`` says where a connection of a node to an address comes out: at a proxy, at something in Python, or
        nowhere (it is refused)."""
        self._lands = lands
        self._awake: dict[Node, None] = {}
        self._nodes: dict[Node, None] = {}
        self._next_port = 32_768
        #: Who had something to do since this was cleared, in that order.
        self.touched: dict[Node, None] = {}
        self.now = 0

    def wake(self, node: Node) -> None:
        """Let a node have a turn."""
        self._nodes[node] = self._awake[node] = self.touched[node] = None

    def dial(self, landing: Landing, ip: str) -> Dialled:
        """Connect to a proxy from outside of the simulation."""
        dialled = Dialled(None)
        connection = self._accept(landing, self._source(ip), dialled)
        if connection is None:
            dialled.is_over = True
        else:
            dialled.peer = _ProxyEnd(self, landing.node, connection)
        return dialled

    def run(self, until: Callable[[], bool], seconds: float) -> bool:
        """Let everybody act until something holds, or nothing happens any more within this time. Whether it holds."""
        deadline = self.now + int(seconds * NANOS)
        for _ in range(_ENDLESS):
            if until():
                return True
            if not self._awake and not self._sleep(deadline):
                return False
            node = next(iter(self._awake))
            del self._awake[node]
            self._carry_out(node, node.proxy.turn(self.now))
        raise RuntimeError("the simulation does not come to rest")

    def _sleep(self, deadline: int) -> bool:
        """Pass the time until somebody has something to do."""
        due = {node: node.proxy.next_timeout for node in self._nodes}
        next_due = min((time for time in due.values() if time is not None), default=None)
        if next_due is None or next_due > deadline:
            return False
        self.now = max(self.now, next_due)
        self._awake.update((node, None) for node, time in due.items() if time is not None and time <= self.now)
        return True

    def _carry_out(self, node: Node, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Connect(connection, address):
                    self._connect(node, connection, address)
                case Send(connection, octets):
                    if connection in node.links:
                        node.links[connection].receive(octets)
                case ShutdownWrite(connection):
                    if connection in node.links:
                        node.links[connection].end_of_input()
                case Close(connection):
                    peer = node.links.pop(connection, None)
                    if peer is not None:
                        peer.end_of_input()

    def _connect(self, node: Node, connection: int, address: str) -> None:
        landing = self._lands(node, address)
        here = _ProxyEnd(self, node, connection)
        self.wake(node)
        if landing is None:
            node.proxy.failed(connection, "connection refused")
            return
        source = self._source(node.ip)
        if not isinstance(landing, Landing):
            node.proxy.connected(connection, source)
            node.links[connection] = landing(here)
            return
        accepted = self._accept(landing, source, here)
        node.proxy.connected(connection, source)
        if accepted is None:
            here.end_of_input()
        else:
            node.links[connection] = _ProxyEnd(self, landing.node, accepted)

    def _accept(self, landing: Landing, source: str, peer: End) -> int | None:
        proxy = landing.node.proxy
        connection = proxy.accept(landing.listener, source, landing.local, is_redirected=landing.is_redirected)
        if connection is not None:
            landing.node.links[connection] = peer
            self.wake(landing.node)
        return connection

    def _source(self, ip: str) -> str:
        self._next_port += 1
        return str(Address(ip, self._next_port))
