"""Kubernetes' own resources: which services there are, where their endpoints are, and keys for gateways."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal

from pymesh.control.resources.decode import Located, PortNumber, Problem, model
from pymesh.control.resources.locality import TrafficDistribution
from pymesh.control.resources.metadata import Resource


@model
class ServicePort(Located):
    """A port of a service. Its application protocol is in its name or ``appProtocol``, as for Istio."""

    REFUSED: ClassVar = {"nodePort": "reach services from outside through a Gateway"}

    port: PortNumber
    name: str = ""
    protocol: Literal["TCP"] = "TCP"
    app_protocol: str = ""
    target_port: int | str | None = None


@model
class ServiceSpec(Located):
    """What a service offers, and whom it selects."""

    REFUSED: ClassVar = {
        "externalIPs": "write a ServiceEntry with resolution: STATIC",
        "loadBalancerIP": "reach services from outside through a Gateway",
        "loadBalancerClass": "reach services from outside through a Gateway",
        "loadBalancerSourceRanges": "reach services from outside through a Gateway",
        "externalTrafficPolicy": "reach services from outside through a Gateway",
        "healthCheckNodePort": "reach services from outside through a Gateway",
        "allocateLoadBalancerNodePorts": "reach services from outside through a Gateway",
        "sessionAffinityConfig": "a client stays for as long as the endpoints are the same; remove it",
    }

    #: What is another name, or none but that of its endpoints, needs none.
    ports: tuple[ServicePort, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    type: Literal["ClusterIP", "ExternalName"] = "ClusterIP"
    #: ``None`` (the text): headless, its endpoints are reached by their own addresses.
    cluster_ip: str = field(default="", metadata={"key": "clusterIP"})
    #: All virtual IPs of a service of two IP versions; the first is ``clusterIP``.
    cluster_ips: tuple[str, ...] = field(default=(), metadata={"key": "clusterIPs"})
    #: What an API server made ``clusterIPs`` from; it is they that are used.
    ip_families: tuple[Literal["IPv4", "IPv6"], ...] = ()
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] = "SingleStack"
    external_name: str = ""
    #: ClientIP: a client stays at one endpoint, unless a DestinationRule says how one is chosen.
    session_affinity: Literal["None", "ClientIP"] = "None"
    #: Local: only endpoints on the client's own node.
    internal_traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    publish_not_ready_addresses: bool = False
    traffic_distribution: TrafficDistribution | None = None

    @property
    def is_headless(self) -> bool:
        """Whether there is no virtual IP before the endpoints, on purpose."""
        return self.cluster_ip == "None"

    @property
    def virtual_ips(self) -> tuple[str, ...]:
        """The addresses that stand for the service as a whole."""
        written = (self.cluster_ip, *self.cluster_ips)
        return tuple(dict.fromkeys(one for one in written if one not in ("", "None")))

    def problems(self) -> Iterator[Problem]:
        if not self.ports and self.type != "ExternalName" and not self.is_headless:
            yield Problem("ports", "a service needs a port")
        yield from port_problems([(port.port, port.name) for port in self.ports])
        for name, addresses in (("clusterIP", (self.cluster_ip,)), ("clusterIPs", self.cluster_ips)):
            for address in addresses:
                if address not in ("", "None") and not is_ip(address):
                    hint = "None (the word) makes a headless service"
                    yield Problem(name, f"{address!r} is not an IP address", hint)
        if self.cluster_ips and self.cluster_ip not in ("", self.cluster_ips[0]):
            yield Problem("clusterIPs", f"the first of them is not clusterIP {self.cluster_ip!r}")
        if self.type == "ExternalName":
            yield from self._external_problems()
        elif self.external_name:
            yield Problem("externalName", "'externalName' belongs to type ExternalName", "set type: ExternalName")

    def _external_problems(self) -> Iterator[Problem]:
        if not is_host_name(self.external_name):
            hint = "an address needs a ServiceEntry with resolution: STATIC"
            yield Problem("externalName", f"{self.external_name!r} is not a host name", hint)
        for name in self.present("clusterIP", "clusterIPs", "selector"):
            yield Problem(name, f"type ExternalName has no {name!r}", "the name is resolved by DNS; remove it")


@model
class Service(Resource):
    """``v1`` Service."""

    spec: ServiceSpec
    status: Any = None


@model
class EndpointPort(Located):
    """A port that all endpoints of a slice have."""

    port: PortNumber
    name: str = ""
    protocol: Literal["TCP"] = "TCP"
    app_protocol: str = ""


@model
class Conditions(Located):
    """Whether an endpoint may get traffic. While it terminates and serves it keeps the connections that it has."""

    ready: bool = True
    #: Without it, whether it is ready says so.
    serving: bool | None = None
    terminating: bool = False

    @property
    def is_draining(self) -> bool:
        """Whether it serves its last connections."""
        return self.terminating and bool(self.ready if self.serving is None else self.serving)


@model
class TargetRef(Located):
    """The pod behind an endpoint."""

    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""


@model
class ForZone(Located):
    """A zone whose clients should use the endpoint."""

    name: str


@model
class Hints(Located):
    """For whom an endpoint is meant."""

    REFUSED: ClassVar = {"forNodes": "a proxy knows its zone only; use forZones"}

    for_zones: tuple[ForZone, ...] = ()


@model
class SliceEndpoint(Located):
    """One endpoint of a slice."""

    REFUSED: ClassVar = {"deprecatedTopology": "write zone and nodeName"}

    addresses: tuple[str, ...]
    conditions: Conditions = Conditions()
    target_ref: TargetRef | None = None
    #: Its name below that of a headless service.
    hostname: str = ""
    node_name: str = ""
    zone: str = ""
    hints: Hints = Hints()

    def problems(self) -> Iterator[Problem]:
        if not self.addresses:
            yield Problem("", "an endpoint needs an address")
        for address in self.addresses:
            if not is_ip(address):
                yield Problem("addresses", f"{address!r} is not an IP address")


@model
class EndpointSlice(Resource):
    """``discovery.k8s.io/v1`` EndpointSlice: endpoints of the service that its label names."""

    SERVICE_LABEL: ClassVar = "kubernetes.io/service-name"

    address_type: Literal["IPv4", "IPv6"]
    endpoints: tuple[SliceEndpoint, ...]
    ports: tuple[EndpointPort, ...] = ()

    def problems(self) -> Iterator[Problem]:
        for endpoint in self.endpoints:
            for address in endpoint.addresses:
                if (":" in address) != (self.address_type == "IPv6"):
                    hint = "a slice has addresses of one IP version; write a slice for each"
                    yield Problem("addressType", f"{address} is not {self.address_type}", hint)


@model
class Secret(Resource):
    """``v1`` Secret: a certificate and key for a gateway."""

    CONFIDENTIAL: ClassVar = True

    data: Mapping[str, str] = field(default_factory=dict, repr=False)
    string_data: Mapping[str, str] = field(default_factory=dict, repr=False)
    type: str = "Opaque"
    immutable: bool = False

    def problems(self) -> Iterator[Problem]:
        for name, value in self.data.items():
            try:
                base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                yield Problem("data", f"{name!r} is not base64", "plain text goes under stringData")

    def content(self, name: str) -> bytes | None:
        """The decoded entry ``name``."""
        if name in self.string_data:
            return self.string_data[name].encode()
        return base64.b64decode(self.data[name]) if name in self.data else None


_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?")


def is_host_name(text: str) -> bool:
    """Whether the text is a name that DNS could know."""
    labels = text.removesuffix(".").split(".")
    # A last label of digits alone would be read as the end of an IPv4 address.
    return len(text) <= 253 and not labels[-1].isdigit() and all(_HOST_LABEL.fullmatch(label) for label in labels)


def is_ip(text: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def port_problems(ports: Sequence[tuple[int, str]]) -> Iterator[Problem]:
    """What is wrong with the numbers and names of a service's ports, taken together."""
    seen: set[int | str] = set()
    for number, name in ports:
        if len(ports) > 1 and not name:
            yield Problem("ports", f"port {number} needs a name", "several ports are told apart by name")
        for mark in {number, name or number}:
            if mark in seen:
                yield Problem("ports", f"port {mark!r} is here twice")
            seen.add(mark)


def is_network(text: str) -> bool:
    """Whether the text is an IP address, or a network in CIDR notation."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
