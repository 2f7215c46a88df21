"""Istio's resources for what runs outside of Kubernetes, and for what one workload sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from pymesh.control.resources import visibility
from pymesh.control.resources.decode import Located, PortNumber, Problem, Weight, Words, model
from pymesh.control.resources.diagnostics import did_you_mean
from pymesh.control.resources.kubernetes import is_host_name, is_ip, is_network, port_problems
from pymesh.control.resources.metadata import Resource

#: Istio's documents have these in capitals; it takes small letters, too. What databases say is not read.
Protocol = Annotated[
    Literal["HTTP", "HTTP2", "GRPC", "HTTPS", "TLS", "TCP"],
    Words((("GRPC-WEB", "GRPC"), ("MONGO", "TCP"), ("MYSQL", "TCP"), ("REDIS", "TCP"))),
]

#: Those of them whose requests we can see.
HTTP_PROTOCOLS = frozenset({"HTTP", "HTTP2", "GRPC"})


@model
class Endpoint(Located):
    """An address with labels: a WorkloadEntry's spec, and an endpoint of a ServiceEntry."""

    REFUSED: ClassVar = {"network": "multi-network meshes come later; remove it"}

    address: str
    ports: Mapping[str, PortNumber] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    service_account: str = ""
    weight: Weight = 0
    #: ``REGION/ZONE/SUBZONE``; the parts at the end may be missing.
    locality: str = ""

    def problems(self) -> Iterator[Problem]:
        if self.address.startswith("unix:"):
            yield Problem("address", f"{self.address!r} is a Unix socket", "give the workload an IP address and a port")
        elif not is_ip(self.address) and not is_host_name(self.address):
            hint = "write 10.0.0.7, fd00::7 or db.example.com; ports have a field of their own"
            yield Problem("address", f"{self.address!r} is neither an IP address nor a host name", hint)
        parts = self.locality.split("/")
        if self.locality and (len(parts) > 3 or not all(parts)):
            yield Problem(
                "locality", f"{self.locality!r} is not REGION/ZONE/SUBZONE", "as in eu-west/eu-west-1, or leave it out"
            )


@model
class WorkloadEntry(Resource):
    """One workload: its address, the ports on which it is reached, and who it is."""

    spec: Endpoint
    status: Any = None


@model
class Port(Located):
    """Istio's Port: of a ServiceEntry, a Gateway's server or a Sidecar's listener."""

    number: PortNumber
    protocol: Protocol
    name: str = ""
    target_port: PortNumber | None = None


@model
class WorkloadSelector(Located):
    """Labels that a workload must have, all of them."""

    labels: Mapping[str, str] = field(default_factory=dict)

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a workload with these labels is meant."""
        return self.labels.items() <= labels.items()


@model
class ServiceEntrySpec(Located):
    """A service that no Kubernetes Service describes."""

    hosts: tuple[str, ...]
    ports: tuple[Port, ...]
    #: NONE: the client knows the address, and it is passed on; DNS_ROUND_ROBIN: one address of those that DNS has.
    resolution: Literal["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN"] = "NONE"
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    endpoints: tuple[Endpoint, ...] = ()
    workload_selector: WorkloadSelector | None = None
    #: Virtual IPs, for sidecars that capture traffic: addresses, or networks as CIDR.
    addresses: tuple[str, ...] = ()
    #: Names of which the certificate of who answers must have one, where TLS is spoken.
    subject_alt_names: tuple[str, ...] = ()
    export_to: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        yield from visibility.problems(self.export_to)
        if not self.hosts or not self.ports:
            yield Problem("", "a ServiceEntry needs hosts and ports")
        yield from port_problems([(port.number, port.name) for port in self.ports])
        for address in self.addresses:
            if not is_network(address):
                hint = "write it as in 10.1.2.3 or 10.1.0.0/16"
                yield Problem("addresses", f"{address!r} is neither an IP address nor a network", hint)
        if self.endpoints and self.workload_selector is not None:
            yield Problem("workloadSelector", "'endpoints' and 'workloadSelector' exclude each other")
        for host in self.hosts:
            yield from self._host_problems(host)
        yield from self._resolution_problems()

    def _host_problems(self, host: str) -> Iterator[Problem]:
        name = host.removeprefix("*.")
        if not is_host_name(name):
            yield Problem("hosts", f"{host!r} is not a host name", "write a whole name, or '*.suffix'")
        elif name != host and not self.endpoints and self.workload_selector is None and self.resolution != "NONE":
            hint = "use resolution: NONE, or give endpoints"
            yield Problem("hosts", f"wildcard host {host!r} has no address that could be looked up", hint)

    def _resolution_problems(self) -> Iterator[Problem]:
        if self.resolution == "NONE":
            for name in self.present("endpoints", "workloadSelector"):
                hint = "use resolution: STATIC, or DNS where they are names"
                yield Problem(name, f"resolution: NONE goes where the client goes and has no {name!r}", hint)
        if self.resolution == "DNS_ROUND_ROBIN" and len(self.endpoints) > 1:
            yield Problem("endpoints", "resolution: DNS_ROUND_ROBIN has one endpoint at most", "use resolution: DNS")
        if self.resolution == "DNS_ROUND_ROBIN" and self.workload_selector is not None:
            hint = "use resolution: STATIC or DNS"
            yield Problem("workloadSelector", "resolution: DNS_ROUND_ROBIN cannot select workloads", hint)
        for endpoint in self.endpoints:
            if self.resolution == "STATIC" and not is_ip(endpoint.address):
                yield Problem(
                    "endpoints",
                    f"{endpoint.address!r} is not an IP address",
                    "host names need resolution: DNS",
                )
        names = {port.name for port in self.ports if port.name}
        for endpoint in self.endpoints:
            for name in sorted(endpoint.ports.keys() - names):
                yield Problem("endpoints", f"{name!r} is not the name of a port", did_you_mean(name, names))


@model
class ServiceEntry(Resource):
    """``networking.istio.io`` ServiceEntry."""

    spec: ServiceEntrySpec
    status: Any = None


@model
class IngressListener(Located):
    """Where the sidecar takes requests for its application."""

    REFUSED: ClassVar = {
        "captureMode": "INTERCEPTION_MODE in the node's metadata decides; remove it",
        "connectionPool": "set it in a DestinationRule for the service",
        "tls": "inbound connections use the mesh's mutual TLS; terminate other TLS in a Gateway",
    }

    port: Port
    default_endpoint: str
    bind: str = ""

    def problems(self) -> Iterator[Problem]:
        if self.bind and not is_ip(self.bind):
            yield Problem("bind", f"{self.bind!r} is not an IP address")
        if self.endpoint() is None:
            yield Problem(
                "defaultEndpoint",
                f"{self.default_endpoint!r} is not IP:PORT",
                "write it as in 127.0.0.1:8080",
            )

    def endpoint(self) -> tuple[str, int] | None:
        """Address and port of the application."""
        address, colon, port = self.default_endpoint.rpartition(":")
        address = address.removeprefix("[").removesuffix("]")
        if not colon or not is_ip(address) or not port.isascii() or not port.isdigit():
            return None
        return (address, int(port)) if 0 < int(port) < 65536 else None


@model
class EgressListener(Located):
    """What the application reaches; with ``port``, on that port alone."""

    hosts: tuple[str, ...]
    port: Port | None = None
    #: Where the application connects to, if its connections are not captured.
    bind: str = ""
    #: Whether connections to the services' own addresses are meant, or to this listener's.
    capture_mode: Literal["DEFAULT", "IPTABLES", "NONE"] = "DEFAULT"

    def problems(self) -> Iterator[Problem]:
        if self.bind and not is_ip(self.bind):
            yield Problem("bind", f"{self.bind!r} is not an IP address", "Unix sockets are not supported yet")
        if self.port is None:
            for name in self.present("bind"):
                yield Problem(name, "'bind' needs a port", "add port.number and port.protocol, or remove it")
            if self.capture_mode == "NONE":
                hint = "add port.number and port.protocol"
                yield Problem("captureMode", "captureMode: NONE needs a port to listen on", hint)
        if self.bind and self.capture_mode == "IPTABLES":
            yield Problem("bind", "'bind' and captureMode: IPTABLES exclude each other", "keep one of them")
        if not self.hosts:
            yield Problem("hosts", "an egress listener needs a host", 'for nothing at all: hosts: ["~/*"]')
        for host in self.hosts:
            if host.count("/") != 1 or not all(host.split("/")):
                yield Problem(
                    "hosts",
                    f"{host!r} is not NAMESPACE/HOST",
                    "write it as in shop/catalog.shop.svc.cluster.local",
                )


OutboundMode = Literal["ALLOW_ANY", "REGISTRY_ONLY"]


@model
class OutboundTrafficPolicy(Located):
    """What becomes of captured traffic to destinations that no resource describes."""

    REFUSED: ClassVar = {"egressProxy": "route the hosts to a gateway with a VirtualService"}

    mode: OutboundMode = "REGISTRY_ONLY"


@model
class SidecarSpec(Located):
    """The listeners of the workloads that are selected."""

    REFUSED: ClassVar = {
        "inboundConnectionPool": "set connectionPool in a DestinationRule for the service",
    }

    workload_selector: WorkloadSelector = WorkloadSelector()
    ingress: tuple[IngressListener, ...] = ()
    egress: tuple[EgressListener, ...] = ()
    outbound_traffic_policy: OutboundTrafficPolicy | None = None

    def problems(self) -> Iterator[Problem]:
        seen: set[int] = set()
        if sum(one.port is None for one in self.egress) > 1:
            yield Problem("egress", "two egress listeners have no port", "name all hosts in one of them")
        egress = (one.port for one in self.egress if one.port is not None)
        for port in (*(one.port for one in self.ingress), *egress):
            if port.number in seen:
                yield Problem("", f"port {port.number} has two listeners", "give each listener its own port")
            seen.add(port.number)


@model
class Sidecar(Resource):
    """``networking.istio.io`` Sidecar."""

    spec: SidecarSpec
    status: Any = None
