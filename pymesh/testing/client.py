"""Clients of a simulated mesh: applications beside their proxies, and whoever comes in by a gateway."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from pymesh.explain.source import Member
from pymesh.explain.told import split
from pymesh.simulated import answer as answers
from pymesh.simulated.http1 import request_octets
from pymesh.simulated.messages import Answered, Asked
from pymesh.simulated.network import NANOS, OUTSIDE, Landing, Network
from pymesh.simulated.tls import TlsClient
from pymesh.testing.blueprint import Blueprint
from pymesh.testing.errors import MeshError, NoAnswerError
from pymesh.testing.tasks import Pending

#: Of whoever comes in by a gateway: an address for documentation.
_CLIENT = "192.0.2.1"


@dataclass(frozen=True, slots=True)
class Door:
    """By which way a URL is asked for."""

    listener: str
    #: That the client connects to.
    address: str
    is_redirected: bool
    authority: str
    path: str
    #: For which name the client speaks TLS; None: it speaks plain text.
    server_name: str | None
    #: Where the client is, and its address.
    place: str
    ip: str


def entrance(plan: Blueprint, member: Member, url: str) -> Door:
    """How a workload's application, or somebody outside by a gateway, asks for a URL. Raises :class:`MeshError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MeshError(f"{url!r} is no URL of HTTP\nhint: write it as in http://reviews:9080/path")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if member.kind == "router":
        bound = plan.told[member].bound
        fitting = {address: name for address, name in bound.items() if split(address)[1] == port}
        if not fitting:
            known = ", ".join(sorted(str(split(address)[1]) for address in bound)) or "none"
            raise MeshError(f"gateway {member.title} has no port {port}\nhint: known: {known}")
        address, listener = next(iter(sorted(fitting.items())))
        server_name = parts.hostname if parts.scheme == "https" else None
        return Door(listener, address, False, parts.netloc, path, server_name, OUTSIDE, _CLIENT)
    if parts.scheme == "https":
        raise MeshError(f"{url}: an application speaks plain text, and its proxy TLS\nhint: write http://")
    way = plan.entrance(member, parts.hostname, port)
    if way is None:
        known = ", ".join(
            sorted(f"{host}:{one}" for host, ports in plan.told[member].services.items() for one in ports)
        )
        raise MeshError(f"{member.title} knows no {parts.hostname}:{port}\nhint: it knows {known or 'no service'}")
    return Door(way.listener, way.address, way.is_redirected, parts.netloc, path, None, member.title, "127.0.0.1")


class Client:
    """One request on a connection of its own."""

    def __init__(
        self, network: Network, landing: Landing, door: Door, asked: Asked, pending: Pending[Answered], timeout: float
    ) -> None:
        self._method = asked.method
        self._pending = pending
        self._dialled = network.dial(landing, door.ip, door.place)
        self._tls = TlsClient(self._dialled, door.server_name) if door.server_name is not None else None
        self._dialled.changed = self._look
        (self._tls or self._dialled).send(b"".join(request_octets(asked)))
        network.at(network.now + round(timeout * NANOS), lambda: self._give_up(timeout))
        # Where nothing takes time the connection may have been refused by now.
        self._look()

    def _look(self) -> None:
        if self._pending.is_done:
            return
        if self._tls is not None:
            self._tls.pump()
        speaker = self._tls or self._dialled
        answer = answers.read(bytes(speaker.received), self._method, is_over=speaker.is_over)
        if answer is not None:
            self._dialled.close()
            self._pending.resolve(answer)
        elif speaker.is_over:
            self._dialled.close()
            why = self._tls.failure if self._tls is not None else None
            self._pending.fail(NoAnswerError(why or "the connection was closed without an answer"))

    def _give_up(self, timeout: float) -> None:
        if not self._pending.is_done:
            self._dialled.close()
            self._pending.fail(TimeoutError(f"no answer within {timeout:g} s"))
