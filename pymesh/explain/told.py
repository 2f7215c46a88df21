"""What a proxy is told, looked at for the ways into it and out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pymesh.control.config import Address
from pymesh.control.xds import pb
from pymesh.explain.source import Member, Messages, Source

_OUTBOUND, _INBOUND = "virtualOutbound", "virtualInbound"
#: Nobody's: a client that asks for a host is led by its name.
_SOMEWHERE = "240.0.0.1"


@dataclass(frozen=True, slots=True)
class Entrance:
    """A way for the application into its sidecar."""

    listener: str
    #: The address that the application connects to.
    address: str
    is_redirected: bool


class Told:
    """One proxy's messages."""

    def __init__(self, messages: Messages, *, is_gateway: bool) -> None:
        self.messages = messages
        self.is_gateway = is_gateway

    @classmethod
    def of(cls, source: Source, member: Member) -> Told:
        """What a member is told."""
        return cls(source.messages(member), is_gateway=member.kind == "router")

    @cached_property
    def is_captured(self) -> bool:
        """Whether the kernel leads its workload's connections to it."""
        return _INBOUND in self.messages.get(pb.LISTENER, {})

    @cached_property
    def bound(self) -> dict[str, str]:
        """The addresses at which it takes connections from others (``IP:PORT``) -> the listener's name."""
        found = {}
        for name, one in self.messages.get(pb.LISTENER, {}).items():
            is_bound = not one.HasField("bind_to_port") or one.bind_to_port.value
            is_inward = self.is_gateway or one.traffic_direction != _outbound()
            if is_bound and is_inward and name not in (_OUTBOUND, _INBOUND):
                found[_address(one)] = name
        return found

    @cached_property
    def services(self) -> dict[str, set[int]]:
        """Host of a service that it can reach -> ports."""
        found: dict[str, set[int]] = {}
        for name in self.messages.get(pb.CLUSTER, {}):
            parts = name.split("|")
            if len(parts) == 4 and parts[0] == "outbound":
                found.setdefault(parts[3], set()).add(int(parts[1]))
        return found

    def endpoints(self, host: str, port: int) -> list[str]:
        """Where a port of a service is served."""
        name = f"outbound|{port}||{host}"
        cluster = self.messages.get(pb.CLUSTER, {}).get(name)
        if cluster is None:
            return []
        assigned = self.messages.get(pb.ENDPOINTS, {}).get(name, cluster.load_assignment)
        found = [one.endpoint.address.socket_address for group in assigned.endpoints for one in group.lb_endpoints]
        return [str(Address(one.address, one.port_value)) for one in found]

    def entrance(self, host: str, port: int) -> Entrance | None:
        """How the application reaches a port of a service; None if no listener leads there."""
        for name, one in self.messages.get(pb.LISTENER, {}).items():
            if one.traffic_direction != _outbound() or name == _OUTBOUND:
                continue
            is_bound = not one.HasField("bind_to_port") or one.bind_to_port.value
            if not is_bound and one.address.socket_address.port_value != port:
                continue
            for chain in chains(one):
                if self._leads_to(chain, host, port):
                    if is_bound:
                        return Entrance(name, _address(one), is_redirected=False)
                    return Entrance(_OUTBOUND, str(Address(_wanted(one, chain), port)), is_redirected=True)
        if self.is_captured:
            return Entrance(_OUTBOUND, str(Address(_SOMEWHERE, port)), is_redirected=True)
        return None

    def _leads_to(self, chain: Any, host: str, port: int) -> bool:
        for one in chain.filters:
            config = pb.unpack(one.typed_config)
            if config.DESCRIPTOR.name == "HttpConnectionManager":
                table = self.messages.get(pb.ROUTES, {}).get(config.rds.route_config_name, config.route_config)
                if any(virtual.name == f"{host}:{port}" for virtual in table.virtual_hosts):
                    return True
            elif config.DESCRIPTOR.name == "TcpProxy":
                clusters = [config.cluster, *(share.name for share in config.weighted_clusters.clusters)]
                ways = (f"outbound|{port}|", f"outbound_tcp|{port}|")
                if any(name.startswith(ways) and name.endswith(f"|{host}") for name in clusters):
                    return True
        return False


def _outbound() -> int:
    return int(pb.enum("envoy.config.core.v3.TrafficDirection").Value("OUTBOUND"))


def chains(listener: Any) -> Iterator[Any]:
    """A listener's filter chains."""
    yield from listener.filter_chains
    # Reading the default chain where there is none would make an empty one.
    if listener.HasField("default_filter_chain"):
        yield listener.default_filter_chain


def http_filters(listener: Any) -> Iterator[Any]:
    """The HTTP filters of all of its chains."""
    for chain in chains(listener):
        for one in chain.filters:
            if one.typed_config.type_url.endswith(".HttpConnectionManager"):
                yield from pb.unpack(one.typed_config).http_filters


def _wanted(listener: Any, chain: Any) -> str:
    """An address for which a listener that is not bound has this chain."""
    own = listener.address.socket_address.address
    if own not in ("0.0.0.0", "::"):
        return str(own)
    ranges = chain.filter_chain_match.prefix_ranges
    return str(ranges[0].address_prefix) if ranges else _SOMEWHERE


def _address(listener: Any) -> str:
    socket = listener.address.socket_address
    return str(Address(socket.address, socket.port_value))


def split(address: str) -> tuple[str, int]:
    """``IP:PORT`` in its parts."""
    ip, _, port = address.rpartition(":")
    return ip.strip("[]"), int(port)


def candidates(written: str, namespace: str, hosts: Mapping[str, Any]) -> list[str]:
    """The hosts that a service's name may mean: a whole one, NAME.NAMESPACE, or NAME, in its own namespace first.

    A dot at the end of a whole one says that it is whole.
    """
    if written.removesuffix(".") in hosts:
        return [written.removesuffix(".")]
    below = [host for host in sorted(hosts) if host.startswith(f"{written}.")]
    return [host for host in below if host.startswith(f"{written}.{namespace}.")] or below
