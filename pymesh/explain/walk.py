"""Sends a request through the mesh's proxies and collects what they decided, logged and answered.

The proxies are the real ones without sockets (``pymesh.simulated``), each told what its control plane tells it; they
speak mutual TLS to each other with identities of an authority of this walk. Where a connection leaves the mesh, or
reaches a workload's application, there is one that answers 200 to everything.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymesh._bridge.simulated import SimulatedProxy
from pymesh.control.identity.spiffe import Identity
from pymesh.control.resources.diagnostics import did_you_mean
from pymesh.control.resources.kubernetes import is_ip
from pymesh.explain import question as asking
from pymesh.explain.application import GRPC_ADDRESS, application, authorizer
from pymesh.explain.credentials import Credentials
from pymesh.explain.prepare import Names, prepared
from pymesh.explain.question import OUTSIDE, Question, QuestionError
from pymesh.explain.source import Member, Source, SourceError
from pymesh.explain.tokens import Signer, providers, with_claims
from pymesh.explain.told import Told, candidates, split
from pymesh.simulated import answer as answers
from pymesh.simulated.messages import Answered
from pymesh.simulated.network import NANOS, Dialled, Landing, Network, Node, Serving
from pymesh.simulated.proxy import ConfigurationRefusedError, configured
from pymesh.simulated.tls import TlsClient

#: No request waits longer for its answer.
_LONGEST_SECONDS = 3600.0
_LOOPBACK = ("127.0.0.1", "::1")

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Passage:
    """What one proxy did."""

    member: Member
    decisions: Sequence[Mapping[str, Any]]
    #: Its access log.
    records: Sequence[Record]


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of a request."""

    question: Question
    #: None: the client is outside, and connects to a workload itself.
    sender: Member | None
    #: Host and port of the service that is meant.
    host: str
    port: int
    #: The address that the client connected to; None if there is no way for it.
    entrance: str | None
    #: In the order in which they were reached.
    passages: Sequence[Passage]
    #: What applications, and servers outside of the mesh, were asked: their access log.
    reached: Sequence[Record]
    #: None: the connection was closed without one.
    answer: Answered | None
    #: How long it took.
    seconds: float


@dataclass(eq=False, slots=True)
class _Place:
    """A member with its proxy."""

    member: Member
    node: Node
    told: Told


class Walker:
    """A mesh at rest, to be asked as often as wanted. Its proxies keep their connections and their luck in between."""

    def __init__(self, source: Source, *, seed: int = 1) -> None:
        self._source = source
        self._seed = seed
        self._nanos = time.time_ns()
        now = datetime.fromtimestamp(self._nanos / 1e9, UTC)
        self._credentials = Credentials(source.trust_domain, now)
        self._signer = Signer(now)
        self._members = list(source.members())
        self._told: dict[Member, Told] = {}
        self._places: dict[Member, _Place] = {}
        self._by_node: dict[Node, _Place] = {}
        self._network = Network(self._lands)
        self._world = application(self._credentials, seed, self._nanos)
        self.names = Names()

    def ask(self, question: Question) -> Trace:
        """What becomes of a request. Raises :class:`QuestionError` or :class:`SourceError`."""
        sender = self.sender(question.sender)
        host, port = self._service(question, sender)
        self._network.touched.clear()
        landing, ip = self._entrance(question, sender, host, port)
        answer, begun = None, self._network.now
        if landing is not None:
            answer = self._exchange(self._network.dial(landing, ip), self._with_token(question), host)
        passages = []
        reached: list[Record] = []
        for node in self._network.touched:
            decisions, records = node.proxy.take_decisions(), _records(node.proxy)
            place = self._by_node.get(node)
            if place is None:
                reached += records
            else:
                passages.append(Passage(place.member, decisions, records))
        entrance = landing.local if landing is not None else None
        seconds = (self._network.now - begun) / NANOS
        return Trace(question, sender, host, port, entrance, passages, reached, answer, seconds)

    def _with_token(self, question: Question) -> Question:
        if question.claims is None:
            return question
        known = [one for member in self._members for one in providers(self._of(member).messages)]
        return with_claims(question, known, self._signer)

    def _exchange(self, dialled: Dialled, question: Question, host: str) -> Answered | None:
        tls = TlsClient(dialled, question.server_name) if question.server_name is not None else None
        client = tls or dialled
        client.send(asking.request_octets(question, question.host or question.server_name or host))

        def read() -> Answered | None:
            if tls is not None:
                tls.pump()
            return answers.read(bytes(client.received), question.method, is_over=client.is_over)

        self._network.run(lambda: read() is not None or client.is_over, _LONGEST_SECONDS)
        answer = read()
        client.close()
        self._network.run(lambda: False, 0)
        return answer

    # --- who and where ----------------------------------------------------------------------------------------------

    def sender(self, written: str) -> Member | None:
        """The member that ``--from`` means; None: nobody of the mesh."""
        if written == OUTSIDE:
            return None
        identity = asking.parse_identity(written, self._source.trust_domain)
        if identity is not None:
            return self._of_identity(identity)
        found = [one for one in self._members if written in (one.name, one.title)]
        if len(found) == 1:
            return found[0]
        if found:
            titles = ", ".join(one.title for one in found)
            raise QuestionError(f"there are several workloads {written!r}\nhint: name one of {titles}")
        why = self._source.why_not(written)
        if why is not None:
            raise QuestionError(f"{written!r} {why}\nhint: --from {OUTSIDE} is somebody without one")
        names = [OUTSIDE, *(one.name for one in self._members)]
        hint = did_you_mean(written, names)
        raise QuestionError(f"no workload of the mesh is called {written!r}\nhint: {hint}")

    def _of_identity(self, identity: Identity) -> Member:
        for one in self._members:
            if one.identity == str(identity):
                return one
        stranger = self._source.stranger(identity)
        if stranger is None:
            known = sorted({one.identity for one in self._members if one.identity})
            hint = did_you_mean(str(identity), known)
            raise QuestionError(f"no proxy of the mesh is {identity}\nhint: {hint}")
        return stranger

    def _service(self, question: Question, sender: Member | None) -> tuple[str, int]:
        namespace = sender.namespace if sender is not None else ""
        services = self._of(sender).services if sender is not None else {}
        if not candidates(question.service, namespace, services):
            # What the sender does not know, others may.
            services = {}
            for member in self._members:
                for host, ports in self._of(member).services.items():
                    services.setdefault(host, set()).update(ports)
        host = _meant(question.service, namespace, services)
        ports = services[host]
        if sender is not None and sender.kind == "router":
            # There the port is the gateway's own.
            return host, min(ports)
        if question.port is not None and question.port not in ports:
            known = ", ".join(str(one) for one in sorted(ports))
            raise QuestionError(f"{host} has no port {question.port}\nhint: known: {known}")
        return host, question.port or (80 if 80 in ports else min(ports))

    def _entrance(self, question: Question, sender: Member | None, host: str, port: int) -> tuple[Landing | None, str]:
        """Where the client's connection comes out, and from which address it comes."""
        if sender is None:
            known = (self._of(member).endpoints(host, port) for member in self._members)
            endpoints = next(filter(None, known), [])
            if not endpoints:
                hint = "no workload has the labels of its selector"
                raise QuestionError(f"{host} port {port} has no endpoints\nhint: {hint}")
            # Of several, the first by name.
            landings = [self._landing(None, address) for address in endpoints]
            return min(landings, key=lambda one: one.node.name), question.source_ip
        place = self._place(sender)
        if sender.kind == "router":
            return self._gateway(place, question), question.source_ip
        entrance = place.told.entrance(host, port)
        if entrance is None:
            return None, ""
        key = _listener(place.node, entrance.listener)
        return Landing(place.node, key, entrance.address, entrance.is_redirected), _LOOPBACK[0]

    def _gateway(self, place: _Place, question: Question) -> Landing:
        bound = place.told.bound
        fitting = {address: name for address, name in bound.items() if split(address)[1] == question.port}
        if question.port is None and len(bound) == 1:
            fitting = bound
        if not fitting:
            ports = ", ".join(str(split(address)[1]) for address in bound) or "none"
            said = f"has no port {question.port}" if question.port is not None else "has not one port"
            raise QuestionError(f"gateway {place.member.title} {said}\nhint: --port; known: {ports}")
        address, name = next(iter(fitting.items()))
        return Landing(place.node, _listener(place.node, name), address)

    # --- the network ------------------------------------------------------------------------------------------------

    def _lands(self, node: Node, address: str) -> Landing | Serving:
        if address == GRPC_ADDRESS:
            return Serving("authorizer", authorizer)
        place = self._by_node.get(node)
        return self._landing(place.member if place else None, address)

    def _landing(self, sender: Member | None, address: str) -> Landing:
        """Where a connection comes out: at a member that listens there, else at an application or outside."""
        ip, port = split(address)
        host = self.names.name(ip) or ip
        for member in self._members:
            if host not in (member.address, *_LOOPBACK):
                continue
            told = self._of(member)
            wild = told.bound.get(f"0.0.0.0:{port}") or told.bound.get(f"[::]:{port}")
            name = told.bound.get(address) or (wild if member is not sender and host == member.address else None)
            if name is not None:
                node = self._place(member).node
                return Landing(node, _listener(node, name), address)
            if told.is_captured and member is not sender and host == member.address:
                node = self._place(member).node
                return Landing(node, _listener(node, "virtualInbound"), address, is_redirected=True)
        return Landing(self._world, self._world.proxy.listeners[0].key, address)

    def _of(self, member: Member) -> Told:
        if member not in self._told:
            self._told[member] = Told.of(self._source, member)
        return self._told[member]

    def _place(self, member: Member) -> _Place:
        if member not in self._places:
            told = self._of(member)
            secrets = self._credentials.secrets(member.identity)
            node = {"id": member.node_id, "cluster": member.name, "metadata": {"NAMESPACE": member.namespace}}
            try:
                messages = prepared(told.messages, secrets, self.names, self._signer)
                proxy = configured(node, messages, seed=self._seed, unix_nanos=self._nanos)
            except ConfigurationRefusedError as error:
                problems = "\n".join(error.args)
                raise SourceError(f"{member.title} refuses its configuration:\n{problems}") from None
            ip = member.address if is_ip(member.address) else self.names.address(member.address)
            made = _Place(member, Node(member.title, ip, proxy), told)
            self._places[member] = self._by_node[made.node] = made
        return self._places[member]


def _records(proxy: SimulatedProxy) -> list[Record]:
    return [json.loads(line) for line in proxy.take_log().splitlines()]


def _listener(node: Node, name: str) -> int:
    return next(one.key for one in node.proxy.listeners if one.name == name)


def _meant(written: str, namespace: str, hosts: Mapping[str, Any]) -> str:
    """The host that a service's name means."""
    found = candidates(written, namespace, hosts)
    if len(found) == 1:
        return found[0]
    if found:
        raise QuestionError(f"there are several services {written!r}\nhint: name one of {', '.join(found)}")
    short = [host.partition(".")[0] for host in hosts]
    raise QuestionError(f"there is no service {written!r}\nhint: {did_you_mean(written, [*hosts, *short])}")
