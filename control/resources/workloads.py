"""Istio's resources for what runs outside of Kubernetes, and for what one workload sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

from pymesh.control.resources.decode import Located, PortNumber, Problem, Weight, model
from pymesh.control.resources.kubernetes import is_ip
from pymesh.control.resources.metadata import Resource

#: Protocols that Istio's documents name in capitals.
Protocol = Literal["HTTP", "HTTP2", "GRPC", "HTTPS", "TLS", "TCP"]

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
    locality: str = ""

    def problems(self) -> Iterator[Problem]:
        if not self.address or any(c in self.address for c in "/ "):
            yield Problem("address", f"{self.address!r} is neither an IP address nor a host name")


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

    REFUSED: ClassVar = {
        "exportTo": "every namespace sees it; remove the field",
        "subjectAltNames": "set tls.subjectAltNames in a DestinationRule",
    }

    hosts: tuple[str, ...]
    ports: tuple[Port, ...]
    resolution: Literal["STATIC", "DNS"]
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    endpoints: tuple[Endpoint, ...] = ()
    workload_selector: WorkloadSelector | None = None
    #: Virtual IPs, for sidecars that capture traffic.
    addresses: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if not self.hosts or not self.ports:
            yield Problem("", "a ServiceEntry needs hosts and ports")
        for host in self.hosts:
            if "*" in host:
                yield Problem("hosts", f"wildcard host {host!r} is not supported yet", "name each host")
        for address in self.addresses:
            if not is_ip(address):
                yield Problem("addresses", f"{address!r} is not an IP address", "write each address; not a CIDR")
        if self.endpoints and self.workload_selector is not None:
            yield Problem("workloadSelector", "'endpoints' and 'workloadSelector' exclude each other")
        if self.resolution == "DNS" and self.workload_selector is not None:
            yield Problem("workloadSelector", "resolution: DNS cannot select workloads", "use resolution: STATIC")
        for endpoint in self.endpoints:
            if self.resolution == "STATIC" and not is_ip(endpoint.address):
                yield Problem(
                    "endpoints",
                    f"{endpoint.address!r} is not an IP address",
                    "host names need resolution: DNS",
                )


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
    """Where the application reaches other services."""

    port: Port
    hosts: tuple[str, ...]
    bind: str = "127.0.0.1"
    capture_mode: Literal["NONE"] = "NONE"

    def problems(self) -> Iterator[Problem]:
        if not is_ip(self.bind):
            yield Problem("bind", f"{self.bind!r} is not an IP address", "Unix sockets are not supported yet")
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
        for port in (*(one.port for one in self.ingress), *(one.port for one in self.egress)):
            if port.number in seen:
                yield Problem("", f"port {port.number} has two listeners", "give each listener its own port")
            seen.add(port.number)


@model
class Sidecar(Resource):
    """``networking.istio.io`` Sidecar."""

    spec: SidecarSpec
    status: Any = None
