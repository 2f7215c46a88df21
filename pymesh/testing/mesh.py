"""A whole mesh in a test: the real proxies' engines under a clock and on a network that the test rules.

The mesh is what the resources say: each workload has its proxy, which hears what the control plane would tell it,
mutual TLS included. Applications are Python callables. Nothing waits: time passes when nobody can do anything, in
:meth:`run` and while a request is waited for. Everything that chance decides is decided by
the seed, so that a run with the same seed does the same, to the octet of its transcript.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pymesh.explain.files import Change
from pymesh.explain.source import Member
from pymesh.simulated import proxy as heard
from pymesh.simulated.messages import Answered, Asked, Fields, Pairs
from pymesh.simulated.network import NANOS, Landing, Network, Node, Serving, Wire
from pymesh.simulated.proxy import ConfigurationRefusedError
from pymesh.testing import blueprint as blueprints
from pymesh.testing import faults as faulty
from pymesh.testing.blueprint import BEGIN, Blueprint, Resources
from pymesh.testing.client import Client, entrance
from pymesh.testing.errors import MeshError
from pymesh.testing.services import Application, Handler, Received
from pymesh.testing.tasks import Pending
from pymesh.testing.weather import Forecast, Latency

_UNIX_NANOS = int(BEGIN.timestamp()) * NANOS
#: A test that forgets a request's end should not take for ever.
_PATIENCE = 60.0
#: The first octet of a TLS connection (RFC 8446, 5.1).
_TLS_HANDSHAKE = b"\x16"
#: Seconds in which all proxies have heard of a change.
_SPREAD = 0.05

Part = Literal["both", "application", "proxy"]


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that the test has sent."""

    #: Seconds since the mesh began.
    time: float
    source: str
    asked: Asked
    answer: Pending[Answered]


@dataclass(frozen=True, slots=True)
class Record:
    """A line of a proxy's access log."""

    time: float
    place: str
    fields: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


@dataclass(eq=False, slots=True)
class _Place:
    """A workload with a proxy."""

    member: Member
    node: Node
    #: What its proxy has heard.
    plan: Blueprint
    #: How often it was started.
    generation: int = 0
    listeners: dict[str, int] = field(default_factory=dict)

    def key(self, listener: str) -> int:
        """That of a listener of its proxy."""
        if listener not in self.listeners:
            self.listeners.update({one.name: one.key for one in self.node.proxy.listeners})
        return self.listeners[listener]


@dataclass(eq=False, slots=True)
class _OwnAddress:
    """A connection of a proxy to its own workload: of the inbound side to the application, or of the outbound side to
    its own service, which the kernel would lead to the inbound side. Which it is shows when it speaks: the mesh's TLS
    is for proxies."""

    network: Network
    place: _Place
    application: Application
    peer: Wire
    address: str

    def receive(self, octets: bytes) -> None:
        """The first octets decide; whoever takes the connection gets all others."""
        there = self.peer.back
        if there is None or there.end is not self:
            return
        if octets[:1] == _TLS_HANDSHAKE:
            key = self.place.key("virtualInbound")
            self.network.hand_over(self.peer, Landing(self.place.node, key, self.address, is_redirected=True))
        else:
            there.end = self.application.accept(self.peer)
        if there.end is not None:
            there.end.receive(octets)

    def end_of_input(self) -> None:
        """Nothing was said."""
        self.peer.close()

    def reset(self) -> None:
        """Nothing was said."""


class Mesh:
    """See the module.

    ``resources``: folders of resources, mesh files, or resources as text (whatever has more than one line).
    """

    def __init__(self, *resources: str | Path, seed: int = 0) -> None:
        """Start every proxy. Raises :class:`MeshError`."""
        self.seed = seed
        #: Chance, for what a test itself draws.
        self.random = random.Random(f"test {seed}")
        self._chance = random.Random(f"mesh {seed}")
        self._resources = Resources.of(resources)
        self._plan = blueprints.blueprint(self._resources)
        self._weather = Forecast(seed)
        self._network = Network(self._lands, self._weather)
        self._network.turned = self._turned
        self._places: dict[str, _Place] = {}
        self._applications: dict[str, Application] = {}
        self._lines: list[str] = []
        self._changes = 0
        self._numbered = 0
        #: The requests that the test has sent.
        self.sent: list[Sent] = []
        #: Handlers that have raised something, and what.
        self.failures: list[tuple[str, Exception]] = []
        self._received: list[Received] = []
        self._records: list[Record] = []
        for member in self._plan.members:
            self._start(member, 0)

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        if error is None:
            for _, failure in self.failures:
                if isinstance(failure, AssertionError):
                    raise failure

    def close(self) -> None:
        """Everything under way is lost."""
        for application in self._applications.values():
            application.crash()
        for place in self._places.values():
            self._network.drop(place.node)

    # --- services ---------------------------------------------------------------------------------------------------

    def service(self, name: str, handler: Handler) -> None:
        """Let a callable play a service, one of its workloads, or a host outside of the mesh."""
        for place in self._plan.places(name):
            self._applications[place] = Application(self, place, handler)

    # --- requests ---------------------------------------------------------------------------------------------------

    def request(self, method: str, url: str, **options: Any) -> Answered:
        """Send a request (:meth:`send`) and let time pass until it is answered. Raises
        NoAnswerError, or TimeoutError."""
        pending = self.send(method, url, **options)
        self._network.run(lambda: pending.is_done, 2 * _PATIENCE + float(options.get("timeout", 0)))
        return pending.result()

    def get(self, url: str, **options: Any) -> Answered:
        """GET something, and wait."""
        return self.request("GET", url, **options)

    def post(self, url: str, body: bytes, **options: Any) -> Answered:
        """POST something, and wait."""
        return self.request("POST", url, body=body, **options)

    def send(
        self,
        method: str,
        url: str,
        *,
        source: str | None = None,
        headers: Pairs = (),
        body: bytes = b"",
        timeout: float = _PATIENCE,
    ) -> Pending[Answered]:
        """Send a request, and go on at once.

        ``source`` is the workload whose application sends it, or the gateway by which it comes in; a mesh with one
        gateway needs none. ``timeout`` is the client's, in seconds.
        """
        pending, asked, place = self._send(method, url, source, headers, body, timeout)
        self.sent.append(Sent(self.now, place, asked, pending))
        return pending

    def ask(self, method: str, url: str, source: str, **options: Any) -> Pending[Answered]:
        """The same for an application, whose requests are not the test's."""
        given = {"headers": (), "body": b"", "timeout": _PATIENCE, **options}
        return self._send(method, url, source, **given)[0]

    def _send(
        self, method: str, url: str, source: str | None, headers: Pairs, body: bytes, timeout: float
    ) -> tuple[Pending[Answered], Asked, str]:
        member = self._source(source)
        door = entrance(self._plan, member, url)
        asked = Asked(method, door.path, door.authority, Fields(headers), body)
        pending: Pending[Answered] = Pending()
        place = self._places[member.title]
        landing = Landing(place.node, place.key(door.listener), door.address, door.is_redirected)
        self._numbered += 1
        number = self._numbered
        self.note(f"{member.title} > {method} {url} #{number}")
        pending.then(lambda: self.note(f"{member.title} < {_end(pending)} #{number}"))
        Client(self._network, landing, door, asked, pending, timeout)
        return pending, asked, member.title

    def _source(self, name: str | None) -> Member:
        by_title = {one.title: one for one in self._plan.members}
        if name is None:
            gateways = [one for one in self._plan.members if one.kind == "router"]
            if len(gateways) != 1:
                raise MeshError(f"there are {len(gateways)} gateways\nhint: say who sends it: source='...'")
            return gateways[0]
        found = [by_title[one] for one in self._plan.places(name) if one in by_title]
        if len(found) != 1:
            known = ", ".join(one.title for one in found) or "none of its workloads has a proxy"
            raise MeshError(f"source={name!r} is {len(found)} workloads\nhint: name one of {known}")
        return found[0]

    # --- time -------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the mesh began."""
        return self._network.now / NANOS

    def run(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due in it."""
        deadline = self._network.now + round(seconds * NANOS)
        self._network.run(lambda: False, seconds)
        self._network.now = max(self._network.now, deadline)

    def at(self, seconds: float, action: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Do something at a time: ``mesh.at(2.5, mesh.crash, "reviews")``."""
        self._network.at(round(seconds * NANOS), lambda: action(*args, **options))

    def after(self, seconds: float, action: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Do something so much later."""
        self._network.at(self._network.now + round(seconds * NANOS), lambda: action(*args, **options))

    # --- faults -----------------------------------------------------------------------------------------------------

    def latency(self, seconds: float, *, jitter: float = 0.0, between: tuple[str, str] | None = None) -> None:
        """How long everything takes, one way; chance adds up to ``jitter``."""
        said = f"{seconds:g} s + {jitter:g} s" if jitter else f"{seconds:g} s"
        if between is None:
            self._weather.everywhere = Latency(seconds, jitter)
            self.note(f"! latency {said}")
            return
        self.note(f"! latency {said} between {between[0]} and {between[1]}")
        for pair in self._pairs(*between):
            self._weather.between[pair] = Latency(seconds, jitter)

    def partition(self, one: str, other: str) -> None:
        """Nothing arrives between two services any more; neither side is told."""
        self.note(f"! partition between {one} and {other}")
        self._weather.parted.update(self._pairs(one, other))

    def heal(self) -> None:
        """End all partitions: what was sent meanwhile arrives."""
        self.note("! partitions heal")
        self._weather.parted.clear()
        self._network.clear_up()

    def cut(self, one: str, other: str) -> None:
        """Lose the connections that are open between two services; new ones can be made."""
        self.note(f"! connections between {one} and {other} are lost")
        pairs = set(self._pairs(one, other))
        for wire in self._network.wires():
            if frozenset((wire.source, wire.target)) in pairs:
                self._network.lose(wire)

    def slow(self, name: str, seconds: float) -> None:
        """Let the applications of a service take so much longer for each request; 0 ends it."""
        self.note(f"! {name} is slow by {seconds:g} s" if seconds else f"! {name} is as fast as ever")
        for application in self._playing(name):
            application.slow = seconds

    def fail(self, name: str, status: int | None = 503) -> None:
        """Let the applications of a service answer everything with this status; None ends it."""
        self.note(f"! {name} fails with {status}" if status else f"! {name} is well again")
        for application in self._playing(name):
            application.fails = status

    def crash(self, name: str, part: Part = "both") -> None:
        """End the workloads of a service at once: their applications, their proxies, or both."""
        self.note(f"! {name} crashes ({part})")
        for place in self._plan.places(name):
            if part != "proxy" and place in self._applications:
                self._applications[place].crash()
            if part != "application" and place in self._places:
                self._network.drop(self._places[place].node)

    def restart(self, name: str) -> None:
        """Start what has crashed of a service."""
        self.note(f"! {name} starts")
        for place in self._plan.places(name):
            if place in self._applications:
                self._applications[place].is_down = False
            at = self._places.get(place)
            if at is not None and at.node.is_down:
                member = next(one for one in self._plan.members if one.title == place)
                self._start(member, at.generation + 1)

    def shake(self, services: Sequence[str], *, within: float, faults: int = 3) -> None:
        """Plan some faults, by chance: each begins within so many seconds, and lasts at most a third of them. After
        ``1.5 * within`` seconds all are over."""
        faulty.plan(self, services, within, faults, random.Random(f"faults {self.seed}"))

    def _playing(self, name: str) -> list[Application]:
        found = [self._applications[one] for one in self._plan.places(name) if one in self._applications]
        if not found:
            raise MeshError(f"nobody plays {name!r}\nhint: mesh.service({name!r}, handler)")
        return found

    def _pairs(self, one: str, other: str) -> list[frozenset[str]]:
        left, right = self._plan.places(one), self._plan.places(other)
        return [frozenset((here, there)) for here in left for there in right if here != there]

    # --- configuration ----------------------------------------------------------------------------------------------

    def apply(self, text: str) -> None:
        """Add resources, or change them: each proxy hears of it a little later. Raises :class:`MeshError`."""
        self._changes += 1
        self._change(Change(f"change {self._changes}", text))

    def delete(self, title: str) -> None:
        """Take a resource away, as in ``VirtualService shop/reviews``. Raises :class:`MeshError`."""
        self._change(Change(title, None))

    def _change(self, change: Change) -> None:
        resources = self._resources.changed(change)
        plan = blueprints.changed(self._plan, resources)
        self._resources, self._plan = resources, plan
        self.note("! configuration changes")
        for member in plan.members:
            if member.title not in self._places:
                self._start(member, 0)
            else:
                self.after(self._chance.uniform(0, _SPREAD), self._tell, member, plan)
        for gone in set(self._places) - {one.title for one in plan.members}:
            self._network.drop(self._places.pop(gone).node)

    def _tell(self, member: Member, plan: Blueprint) -> None:
        place = self._places.get(member.title)
        # Whoever has crashed, or was changed again, hears the whole when it starts, or the newest.
        if place is None or place.node.is_down or self._plan is not plan or place.plan is plan:
            return
        self._network.tell_time(place.node)
        try:
            heard.tell(place.node.proxy, plan.changes(place.plan, member))
        except ConfigurationRefusedError as error:
            self.note(f"{member.title} refuses its configuration")
            raise MeshError(f"{member.title} refuses its configuration:\n" + "\n".join(error.args)) from None
        place.plan = plan
        place.listeners.clear()
        self._network.wake(place.node)

    def _start(self, member: Member, generation: int) -> None:
        digest = hashlib.sha256(f"{self.seed}/{member.title}/{generation}".encode()).digest()
        metadata = {"NAMESPACE": member.namespace}
        try:
            proxy = heard.started(
                {"id": member.node_id, "cluster": member.name, "metadata": metadata},
                self._plan.steps[member],
                seed=int.from_bytes(digest[:8]),
                unix_nanos=_UNIX_NANOS,
                now=self._network.now,
            )
        except ConfigurationRefusedError as error:
            raise MeshError(f"{member.title} refuses its configuration:\n" + "\n".join(error.args)) from None
        ip = member.address if member.address[0].isdigit() or ":" in member.address else "192.0.2.9"
        place = _Place(member, Node(member.title, ip, proxy), self._plan, generation)
        self._places[member.title] = place
        self._network.wake(place.node)

    # --- what was seen ----------------------------------------------------------------------------------------------

    @property
    def transcript(self) -> str:
        """Everything that has happened, line by line: equal for equal seeds."""
        return "".join(f"{line}\n" for line in self._lines)

    def log(self, name: str | None = None) -> list[Record]:
        """The access logs of all proxies, or of a service's or gateway's, in the order of their ends."""
        places = None if name is None else set(self._plan.places(name))
        return [one for one in self._records if places is None or one.place in places]

    def received(self, name: str | None = None) -> list[Received]:
        """The requests that have reached applications, or those of a service."""
        places = None if name is None else set(self._plan.places(name))
        return [one for one in self._received if places is None or one.place in places]

    def stats(self, name: str) -> dict[str, int]:
        """The counters of the proxy of a workload, as in its ``/stats``."""
        return self._places[self._source(name).title].node.proxy.stats

    def token(self, claims: Mapping[str, Any]) -> str:
        """A JSON Web Token with these claims, which every RequestAuthentication of the mesh believes."""
        return blueprints.signer().token({"exp": int(BEGIN.timestamp() + self.now) + 3600, **claims})

    def note(self, line: str) -> None:
        """Write a line into the transcript."""
        self._lines.append(f"{self._network.now / NANOS:12.6f} {line}")

    def arrived(self, received: Received) -> None:
        """A request has reached an application."""
        self._received.append(received)
        self.note(f"{received.place} gets {received.asked.method} {received.asked.path}")

    def broken(self, place: str, error: Exception) -> None:
        """A handler has raised something."""
        self.failures.append((place, error))
        self.note(f"{place} fails: {type(error).__name__}: {error}")

    # --- the network ------------------------------------------------------------------------------------------------

    def _lands(self, node: Node, address: str) -> Landing | Serving | None:
        sender = self._places[node.name]
        arrival = sender.plan.arrival(node.name, address)
        if arrival is None:
            return None
        if arrival.listener is None:
            application = self._applications.get(arrival.place)
            if application is None or application.is_down:
                return None
            if arrival.place == node.name and sender.plan.told[sender.member].is_captured:
                return Serving(node.name, lambda peer: _OwnAddress(self._network, sender, application, peer, address))
            return Serving(arrival.place, application.accept)
        place = self._places.get(arrival.place)
        if place is None or place.node.is_down:
            return None
        return Landing(place.node, place.key(arrival.listener), address, arrival.is_redirected)

    def _turned(self, node: Node) -> None:
        for line in node.proxy.take_log().splitlines():
            record = Record(self.now, node.name, json.loads(line))
            self._records.append(record)
            self.note(f"{node.name} logs {_shown(record)}")


#: Of a line of an access log, as a transcript shows it.
_SHOWN = ("method", "original_path", "status", "flags", "details", "cluster", "upstream", "attempts")


def _shown(record: Record) -> str:
    return " ".join("-" if record[name] is None else str(record[name]) for name in _SHOWN)


def _end(pending: Pending[Answered]) -> str:
    return str(pending.result().status) if pending.error is None else type(pending.error).__name__
