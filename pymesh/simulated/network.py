"""A network of simulated proxies: connections between two ends each, and a time that passes only when nobody can do
anything.

An end is a connection of a proxy, or something in Python that speaks. What one end sends arrives at the other in order,
after as long as the :class:`Weather` says; without any, at once. A run depends on nothing but its proxies, their seeds,
the weather, and what is asked.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from pymesh._bridge.simulated import Close, Connect, Effect, Send, ShutdownWrite, SimulatedProxy
from pymesh.control.config import Address

NANOS = 1_000_000_000
#: Where whoever is no part of the network is.
OUTSIDE = "outside"
#: Turns without any time passing after which a run counts as endless.
_ENDLESS = 100_000


class End(Protocol):
    """One end of a connection: what reaches it."""

    def receive(self, octets: bytes) -> None:
        """Octets of the other end."""

    def end_of_input(self) -> None:
        """Nothing more comes from there."""

    def reset(self) -> None:
        """The connection is lost."""


class Weather(Protocol):
    """What lies between two places."""

    def delay(self, source: str, target: str) -> int | None:
        """Nanoseconds that what is sent now takes; None: it does not arrive before :meth:`Network.clear_up`."""


class Calm:
    """Everything arrives at once."""

    def delay(self, source: str, target: str) -> int | None:
        """None at all."""
        return 0


@dataclass(eq=False, slots=True)
class Node:
    """A proxy with its place in the network."""

    name: str
    #: From which it connects.
    ip: str
    proxy: SimulatedProxy
    links: dict[int, Wire] = field(default_factory=dict)
    #: Whether it has ended.
    is_down: bool = False
    #: When it has something to do even if nothing arrives.
    due: int | None = None
    #: The time that it knows.
    knows: int = -1


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a connection to an address comes out: at a listener of a proxy."""

    node: Node
    listener: int
    #: The address that the client wanted.
    local: str
    #: Whether the kernel has led it to the listener.
    is_redirected: bool = False

    @property
    def place(self) -> str:
        """In which place that is."""
        return self.node.name


@dataclass(frozen=True, slots=True)
class Serving:
    """Where a connection comes out: at a server in Python."""

    place: str
    #: Given the end of whoever has connected, its own.
    accept: Callable[[Wire], End]


class Wire:
    """One direction of a connection: what goes in here arrives at the other end."""

    __slots__ = ("_held", "_in_flight", "_last", "_network", "back", "end", "is_cut", "source", "target")

    def __init__(self, network: Network, source: str, target: str, end: End | None = None) -> None:
        self._network = network
        self.source = source
        self.target = target
        self.end = end
        self.back: Wire | None = None
        self.is_cut = False
        self._in_flight = 0
        self._last = 0
        self._held: list[Callable[[], None]] = []

    def receive(self, octets: bytes) -> None:
        """Send octets."""
        self.send(lambda: self.end.receive(octets) if self.end else None)

    def end_of_input(self) -> None:
        """Send the end."""
        self.send(lambda: self.end.end_of_input() if self.end else None)

    def close(self) -> None:
        """Send the end, and take nothing more of what comes back."""
        self.end_of_input()
        if self.back is not None:
            self.back.end = _Closed(self)

    def reset(self) -> None:
        """Send word that the connection is lost."""
        self.send(self.cut)

    def cut(self) -> None:
        """The connection is lost, for this direction's receiver."""
        if not self.is_cut:
            self.is_cut = True
            self._held.clear()
            self._network.forget(self)
            if self.end is not None:
                self.end.reset()

    def send(self, arrive: Callable[[], None]) -> None:
        """Let something arrive, behind everything that was sent before."""
        if self.is_cut:
            return
        delay = None if self._held else self._network.weather.delay(self.source, self.target)
        if delay is None:
            self._held.append(arrive)
            return
        now = self._network.now
        self._last = max(self._last, now + delay)
        if self._last <= now and not self._in_flight:
            arrive()
            return
        self._in_flight += 1
        self._network.at(self._last, lambda: self._arrive(arrive))

    def done(self) -> None:
        """Nobody has anything to say any more."""
        self._network.forget(self)
        if self.back is not None:
            self._network.forget(self.back)

    def clear_up(self) -> None:
        """What was held up goes on its way."""
        held, self._held = self._held, []
        for arrive in held:
            self.send(arrive)

    def _arrive(self, arrive: Callable[[], None]) -> None:
        self._in_flight -= 1
        if not self.is_cut:
            arrive()


@dataclass(frozen=True, slots=True)
class _Closed:
    """The end of somebody who has closed the connection, both ways."""

    back: Wire

    def receive(self, octets: bytes) -> None:
        self.back.reset()

    def end_of_input(self) -> None:
        self.back.done()

    def reset(self) -> None:
        self.back.done()


@dataclass(frozen=True, slots=True)
class _ProxyEnd:
    network: Network
    node: Node
    proxy: SimulatedProxy
    connection: int

    def receive(self, octets: bytes) -> None:
        if self.connection in self.node.links:
            self.proxy.receive(self.connection, octets)
            self.network.wake(self.node)

    def end_of_input(self) -> None:
        if self.connection in self.node.links:
            self.proxy.end_of_input(self.connection)
            self.network.wake(self.node)

    def reset(self) -> None:
        if self.connection in self.node.links:
            self.network.tell_time(self.node)
        if self.node.links.pop(self.connection, None) is not None:
            self.proxy.failed(self.connection, "connection reset by peer")
            self.network.wake(self.node)


@dataclass(eq=False, slots=True)
class Dialled:
    """Something in Python that has connected to a proxy: what came back, and its way of speaking to it."""

    peer: Wire | None
    received: bytearray = field(default_factory=bytearray)
    is_over: bool = False
    #: Told whenever something has come.
    changed: Callable[[], None] | None = None

    def receive(self, octets: bytes) -> None:
        """Octets of the proxy."""
        self.received += octets
        self._tell()

    def end_of_input(self) -> None:
        """The proxy has closed."""
        self.is_over = True
        self._tell()

    def reset(self) -> None:
        """The connection is lost."""
        self.end_of_input()

    def send(self, octets: bytes) -> None:
        """Octets for the proxy."""
        if self.peer is not None:
            self.peer.receive(octets)

    def close(self) -> None:
        """End the connection."""
        if self.peer is not None:
            self.peer.close()

    def _tell(self) -> None:
        if self.changed is not None:
            self.changed()


class Network:
    """Everybody's connections, and the clock."""

    def __init__(self, lands: Callable[[Node, str], Landing | Serving | None], weather: Weather | None = None) -> None:
        """``lands`` says where a connection of a node to an address comes out: at a proxy, at something in Python, or
        nowhere (it is refused)."""
        self._lands = lands
        self.weather: Weather = weather or Calm()
        self._awake: dict[Node, None] = {}
        self._nodes: dict[Node, None] = {}
        self._next_port = 32_768
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._wires: dict[Wire, None] = {}
        #: Who had something to do since this was cleared, in that order.
        self.touched: dict[Node, None] = {}
        #: Told of each node that has had a turn.
        self.turned: Callable[[Node], None] = lambda _: None
        self.now = 0

    def wake(self, node: Node) -> None:
        """Let a node have a turn."""
        self._nodes[node] = self._awake[node] = self.touched[node] = None

    def act(self, node: Node) -> None:
        """Let a node do, now, everything that it can."""
        self._awake.pop(node, None)
        self._nodes[node] = self.touched[node] = None
        node.knows = self.now
        self._carry_out(node, node.proxy.turn(self.now))
        node.due = node.proxy.next_timeout
        self.turned(node)

    def tell_time(self, node: Node) -> None:
        """What is reported to a node happens at the time that it knows, so it has to know the right one."""
        if node.knows < self.now:
            self.act(node)

    def drop(self, node: Node) -> None:
        """A node is no more: it has no turns, and its connections are lost."""
        node.is_down = True
        self._nodes.pop(node, None)
        self._awake.pop(node, None)
        # It says and logs nothing any more: of its own ends nobody tells it.
        links, node.links = node.links, {}
        for wire in links.values():
            self.lose(wire)

    def at(self, time: int, action: Callable[[], None]) -> None:
        """Do something at a time; of several at the same time, in this order."""
        heapq.heappush(self._later, (max(time, self.now), next(self._order), action))

    def dial(self, landing: Landing, ip: str, place: str = OUTSIDE) -> Dialled:
        """Connect to a proxy from something in Python."""
        dialled = Dialled(None)
        there, back = self._wired(place, landing.place)
        back.end = dialled
        dialled.peer = there
        there.send(lambda: self._arrives(landing, self._source(ip), there, back))
        return dialled

    def hand_over(self, peer: Wire, landing: Landing) -> None:
        """What something in Python has accepted comes out at a proxy instead, as if it had come there."""
        if peer.back is not None:
            self._arrives(landing, self._source(landing.node.ip), peer.back, peer)

    def wires(self) -> Iterator[Wire]:
        """Each direction of each connection."""
        return iter(list(self._wires))

    def lose(self, wire: Wire) -> None:
        """Both ends of a connection learn, now, that it is lost."""
        wire.cut()
        if wire.back is not None:
            wire.back.cut()

    def forget(self, wire: Wire) -> None:
        """A direction will carry nothing any more."""
        self._wires.pop(wire, None)

    def clear_up(self) -> None:
        """What the weather has held up goes on, as far as it lets it now."""
        for wire in self.wires():
            wire.clear_up()

    def run(self, until: Callable[[], bool], seconds: float) -> bool:
        """Let everybody act until something holds, or nothing happens any more within this time. Whether it holds."""
        deadline = self.now + int(seconds * NANOS)
        turns, since = 0, self.now
        while not until():
            if not self._awake and not self._sleep(deadline):
                return False
            while self._awake:
                self.act(next(iter(self._awake)))
                if until():
                    return True
            turns, since = (turns + 1, since) if self.now == since else (0, self.now)
            if turns > _ENDLESS:
                raise RuntimeError("the simulation does not come to rest")
        return True

    def _sleep(self, deadline: int) -> bool:
        """Pass the time until somebody has something to do, and let it happen."""
        next_due = min((node.due for node in self._nodes if node.due is not None), default=None)
        if self._later and (next_due is None or self._later[0][0] <= next_due):
            time, _, action = self._later[0]
            if time > deadline:
                return False
            heapq.heappop(self._later)
            self.now = max(self.now, time)
            action()
            return True
        if next_due is None or next_due > deadline:
            return False
        self.now = max(self.now, next_due)
        for node in self._nodes:
            if node.due is not None and node.due <= self.now:
                self._awake[node] = self.touched[node] = None
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
                    wire = node.links.pop(connection, None)
                    if wire is not None:
                        wire.close()

    def _connect(self, node: Node, connection: int, address: str) -> None:
        landing = self._lands(node, address)
        here = _ProxyEnd(self, node, node.proxy, connection)
        self.wake(node)
        if landing is None:
            node.proxy.failed(connection, "connection refused")
            return
        source = self._source(node.ip)
        there, back = self._wired(node.name, landing.place)
        back.end = here
        node.links[connection] = there

        def arrived() -> None:
            if isinstance(landing, Landing) and landing.node.is_down:
                back.reset()
                return
            # The answer to a connect is older than whatever the other side says.
            back.send(connected)
            if isinstance(landing, Serving):
                there.end = landing.accept(back)
            else:
                self._arrives(landing, source, there, back)

        def connected() -> None:
            if node.is_down:
                return
            self.tell_time(node)
            if connection in node.links:
                node.proxy.connected(connection, source)
                self.wake(node)

        there.send(arrived)

    def _arrives(self, landing: Landing, source: str, there: Wire, back: Wire) -> None:
        """A connection comes to a proxy, which may turn it away."""
        node = landing.node
        if node.is_down:
            back.reset()
            return
        self.tell_time(node)
        connection = node.proxy.accept(landing.listener, source, landing.local, is_redirected=landing.is_redirected)
        if connection is None:
            back.end_of_input()
            return
        there.end = _ProxyEnd(self, node, node.proxy, connection)
        node.links[connection] = back
        self.wake(node)

    def _wired(self, source: str, target: str) -> tuple[Wire, Wire]:
        there, back = Wire(self, source, target), Wire(self, target, source)
        there.back, back.back = back, there
        self._wires[there] = self._wires[back] = None
        return there, back

    def _source(self, ip: str) -> str:
        self._next_port = self._next_port + 1 if self._next_port < 60_999 else 32_769
        return str(Address(ip, self._next_port))
