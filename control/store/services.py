"""Services by host, whatever described them, and the workloads behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pymesh.control.resources import visibility
from pymesh.control.resources.diagnostics import Position
from pymesh.control.resources.locality import TrafficDistribution
from pymesh.control.resources.workloads import HTTP_PROTOCOLS
from pymesh.control.store.workloads import Workload

#: How a proxy finds where a service is served: told by us, by DNS (all addresses, or one), or by who connects.
Resolution = Literal["EDS", "DNS", "DNS_ROUND_ROBIN", "NONE"]

#: The protocol of a port that does not say it.
UNTOLD = "AUTO"


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a service. A target that is a name stands for the workload's port of that name."""

    number: int
    name: str
    protocol: str
    target: int | str
    #: Its ``appProtocol`` says what is spoken there, and not its name, or nothing at all.
    is_declared: bool = False

    @property
    def is_http(self) -> bool:
        """Whether its requests can be routed."""
        return self.protocol in HTTP_PROTOCOLS

    @property
    def is_http2(self) -> bool:
        """Whether the application speaks HTTP/2 there."""
        return self.protocol in ("HTTP2", "GRPC")

    @property
    def is_sniffed(self) -> bool:
        """Whether the proxies look, of each connection, whether it is HTTP."""
        return self.protocol == UNTOLD


@dataclass(frozen=True, slots=True)
class Backend:
    """Where one port of a service is served."""

    workload: Workload
    port: int


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """A host with ports, and what serves it."""

    host: str
    name: str
    namespace: str
    ports: tuple[Port, ...]
    resolution: Resolution
    #: Outside of the mesh: spoken to without the mesh's TLS.
    external: bool
    #: Names under which it is known besides ``host``: to everybody, and in its namespace alone.
    aliases: tuple[str, ...]
    selector: Mapping[str, str]
    backends: Mapping[int, tuple[Backend, ...]] = field(repr=False)
    at: Position
    #: Its virtual IPs, by which captured connections are known to be for it; networks are written as CIDR.
    addresses: tuple[str, ...] = ()
    #: Without a virtual IP on purpose: clients choose an endpoint, by its address or by a name below ``host``.
    headless: bool = False
    #: Names that certificates of its endpoints may have.
    subject_alt_names: tuple[str, ...] = ()
    #: The namespaces that see it; all if empty.
    export_to: tuple[str, ...] = ()
    #: Port -> address -> where an endpoint that nobody uses yet serves it, for ports whose target is a name. Its own
    #: sidecar has to know before others do: what comes first must not find it without a chain for the port.
    awaited: Mapping[int, Mapping[str, int]] = field(default_factory=dict, repr=False)
    #: Which endpoints its clients prefer, unless a DestinationRule says so.
    distribution: TrafficDistribution | None = None
    #: A client stays at one endpoint by its address, unless a DestinationRule says how one is chosen.
    keeps_clients: bool = False
    #: Served to clients on the same node only.
    on_node: bool = False
    #: Sorts first who has an address or a name that several give: Kubernetes' Services, then the oldest, then by name.
    precedence: tuple[bool, tuple[bool, str], str] = (True, (True, ""), "")

    def is_visible(self, namespace: str) -> bool:
        """Whether clients in ``namespace`` see it."""
        return visibility.sees(namespace, self.export_to, self.namespace)

    def port(self, number: int) -> Port | None:
        """The port with this number."""
        return next((port for port in self.ports if port.number == number), None)

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every host below a suffix."""
        return self.host.startswith("*.")

    @property
    def virtual_ips(self) -> tuple[str, ...]:
        """Its virtual IPs that are single addresses."""
        return tuple(one for one in self.addresses if "/" not in one)

    def selects(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether a workload serves it."""
        return bool(self.selector) and self.namespace == namespace and self.selector.items() <= labels.items()
