"""Kubernetes' own resources: which services there are, where their endpoints are, and keys for gateways."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

from pymesh.control.resources.decode import Located, PortNumber, Problem, model
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
        "externalName": "write a ServiceEntry with resolution: DNS",
        "sessionAffinity": "nothing replaces it yet",
        "externalIPs": "write a ServiceEntry with resolution: STATIC",
        "loadBalancerIP": "reach services from outside through a Gateway",
        "publishNotReadyAddresses": "nothing replaces it yet",
    }

    ports: tuple[ServicePort, ...]
    selector: Mapping[str, str] = field(default_factory=dict)
    type: Literal["ClusterIP"] = "ClusterIP"
    cluster_ip: str = field(default="", metadata={"key": "clusterIP"})

    def problems(self) -> Iterator[Problem]:
        if not self.ports:
            yield Problem("ports", "a service needs a port")
        seen: set[int | str] = set()
        for port in self.ports:
            if len(self.ports) > 1 and not port.name:
                yield Problem("ports", f"port {port.port} needs a name", "several ports are told apart by name")
            for mark in {port.port, port.name or port.port}:
                if mark in seen:
                    yield Problem("ports", f"port {mark!r} is here twice")
                seen.add(mark)


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
    """Whether an endpoint may get traffic."""

    ready: bool = True
    serving: bool = True
    terminating: bool = False


@model
class TargetRef(Located):
    """The pod behind an endpoint."""

    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""


@model
class SliceEndpoint(Located):
    """One endpoint of a slice."""

    REFUSED: ClassVar = {"hints": "locality-aware balancing comes later; remove it"}

    addresses: tuple[str, ...]
    conditions: Conditions = Conditions()
    target_ref: TargetRef | None = None
    hostname: str = ""
    node_name: str = ""
    zone: str = ""

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


@model
class Secret(Resource):
    """``v1`` Secret: a certificate and key for a gateway."""

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


def is_ip(text: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
