"""Services by host, whatever described them, and the workloads behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pymesh.control.resources.diagnostics import Position, Report
from pymesh.control.resources.kubernetes import EndpointSlice, is_ip
from pymesh.control.resources.kubernetes import Service as KubeService
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.workloads import HTTP_PROTOCOLS, Endpoint, ServiceEntry, WorkloadEntry

#: On an endpoint: its proxy takes the mesh's mutual TLS.
TLS_MODE_LABEL = "security.istio.io/tlsMode"

_PROTOCOLS = {
    "http": "HTTP", "http2": "HTTP2", "grpc": "GRPC", "https": "HTTPS", "tls": "TLS", "tcp": "TCP",
    "kubernetes.io/h2c": "HTTP2", "kubernetes.io/ws": "HTTP", "mongo": "TCP", "redis": "TCP", "mysql": "TCP",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a service. A target that is a name stands for the workload's port of that name."""

    number: int
    name: str
    protocol: str
    target: int | str

    @property
    def is_http(self) -> bool:
        """Whether its requests can be routed."""
        return self.protocol in HTTP_PROTOCOLS

    @property
    def is_http2(self) -> bool:
        """Whether the application speaks HTTP/2 there."""
        return self.protocol in ("HTTP2", "GRPC")


@dataclass(frozen=True, slots=True)
class Workload:
    """Something with an address and labels."""

    name: str
    namespace: str
    address: str
    ports: Mapping[str, int]
    labels: Mapping[str, str]
    service_account: str
    weight: int

    @property
    def in_mesh(self) -> bool:
        """Whether a proxy that speaks mutual TLS stands before it."""
        return self.labels.get(TLS_MODE_LABEL) == "istio"


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
    resolution: Literal["EDS", "DNS"]
    #: Outside of the mesh: spoken to without the mesh's TLS.
    external: bool
    #: Names under which it is known besides ``host``: to everybody, and in its namespace alone.
    aliases: tuple[str, ...]
    selector: Mapping[str, str]
    backends: Mapping[int, tuple[Backend, ...]] = field(repr=False)
    at: Position
    #: Its virtual IPs, by which captured connections are known to be for it.
    addresses: tuple[str, ...] = ()

    def port(self, number: int) -> Port | None:
        """The port with this number."""
        return next((port for port in self.ports if port.number == number), None)

    def selects(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether a workload serves it."""
        return bool(self.selector) and self.namespace == namespace and self.selector.items() <= labels.items()


def derive(resources: Iterable[Resource], domain: str, report: Report) -> dict[str, Service]:
    """The services by host."""
    everything = list(resources)
    workloads = [_workload(one) for one in everything if isinstance(one, WorkloadEntry)]
    slices: dict[tuple[str, str], list[EndpointSlice]] = {}
    for one in everything:
        if isinstance(one, EndpointSlice):
            owner = one.metadata.labels.get(EndpointSlice.SERVICE_LABEL, "")
            slices.setdefault((one.namespace, owner), []).append(one)
    found: dict[str, Service] = {}
    for one in everything:
        if isinstance(one, KubeService):
            made = [_from_kubernetes(one, workloads, slices.pop((one.namespace, one.name), []), domain, report)]
        elif isinstance(one, ServiceEntry):
            made = _from_entry(one, workloads)
        else:
            continue
        for service in made:
            first = found.setdefault(service.host, service)
            if first is not service:
                report.error(service.at, f"host {service.host!r} is defined twice", f"the first is at {first.at}")
    for (namespace, owner), orphans in slices.items():
        for orphan in orphans:
            _orphan(orphan, namespace, owner, report)
    return found


def _orphan(orphan: EndpointSlice, namespace: str, owner: str, report: Report) -> None:
    label = EndpointSlice.SERVICE_LABEL
    if owner:
        message, hint = f"there is no Service {namespace}/{owner}", f"the label {label} names it"
    else:
        message, hint = f"{orphan.title} belongs to no service", f"give it the label {label}"
    report.error(orphan.metadata.place("labels"), message, hint)


def _workload(entry: WorkloadEntry) -> Workload:
    return _endpoint(entry.spec, entry.name, entry.namespace, {**entry.metadata.labels, **entry.spec.labels})


def _endpoint(spec: Endpoint, name: str, namespace: str, labels: Mapping[str, str]) -> Workload:
    return Workload(name, namespace, spec.address, spec.ports, labels, spec.service_account, spec.weight)


def _from_kubernetes(
    service: KubeService, workloads: list[Workload], slices: list[EndpointSlice], domain: str, report: Report
) -> Service:
    name, namespace = service.name, service.namespace
    ports = tuple(
        Port(
            port.port,
            port.name,
            _protocol(port.name, port.app_protocol),
            port.port if port.target_port is None else port.target_port,
        )
        for port in service.spec.ports
    )
    selector = service.spec.selector
    selected = [w for w in workloads if selector and w.namespace == namespace and selector.items() <= w.labels.items()]
    backends: dict[int, tuple[Backend, ...]] = {}
    for port in ports:
        reached = [Backend(w, number) for w in selected if (number := _reached(port, w)) is not None]
        for workload in selected:
            if _reached(port, workload) is None:
                report.warning(
                    service.at,
                    f"{workload.name} has no port {port.target!r} of {service.title}",
                    "name it under the entry's ports",
                )
        reached += [backend for one in slices for backend in _sliced(one, port)]
        backends[port.number] = tuple(sorted(reached, key=lambda b: (b.workload.address, b.port)))
    host = f"{name}.{namespace}.svc.{domain}"
    aliases = (name, f"{name}.{namespace}", f"{name}.{namespace}.svc")
    addresses = (service.spec.cluster_ip,) if is_ip(service.spec.cluster_ip) else ()
    return Service(host, name, namespace, ports, "EDS", False, aliases, selector, backends, service.at, addresses)


def _select(workloads: list[Workload], namespace: str, selector: Mapping[str, str]) -> list[Workload]:
    return [w for w in workloads if w.namespace == namespace and selector.items() <= w.labels.items()]


def _reached(port: Port, workload: Workload) -> int | None:
    """The workload's port that serves a service's port: by name, else by number."""
    for name in (port.name, port.target):
        if isinstance(name, str) and name in workload.ports:
            return workload.ports[name]
    return port.target if isinstance(port.target, int) else None


def _sliced(one: EndpointSlice, port: Port) -> Iterable[Backend]:
    numbers = [known.port for known in one.ports if known.name == port.name]
    for endpoint in one.endpoints:
        if not endpoint.conditions.ready:
            continue
        name = endpoint.target_ref.name if endpoint.target_ref else ""
        for number in numbers:
            yield Backend(Workload(name, one.namespace, endpoint.addresses[0], {}, {}, "", 0), number)


def _from_entry(entry: ServiceEntry, workloads: list[Workload]) -> list[Service]:
    spec = entry.spec
    ports = tuple(
        Port(
            port.number,
            port.name,
            port.protocol,
            port.number if port.target_port is None else port.target_port,
        )
        for port in spec.ports
    )
    selector = spec.workload_selector.labels if spec.workload_selector else {}
    found = []
    for host in spec.hosts:
        serving = [
            _endpoint(endpoint, f"{entry.name}-{n}", entry.namespace, endpoint.labels)
            for n, endpoint in enumerate(spec.endpoints)
        ]
        if selector:
            serving = _select(workloads, entry.namespace, selector)
        elif spec.resolution == "DNS" and not serving:
            serving = [Workload(entry.name, entry.namespace, host, {}, {}, "", 0)]
        backends = {
            port.number: tuple(Backend(w, number) for w in serving if (number := _reached(port, w)) is not None)
            for port in ports
        }
        external = spec.location == "MESH_EXTERNAL"
        resolution: Literal["EDS", "DNS"] = "DNS" if spec.resolution == "DNS" else "EDS"
        at = spec.place("hosts")
        found.append(
            Service(
                host, host, entry.namespace, ports, resolution, external, (), selector, backends, at, spec.addresses
            )
        )
    return found


def _protocol(name: str, app_protocol: str) -> str:
    """Istio's rule: ``appProtocol``, else the port's name up to the first dash; what neither says is TCP."""
    return _PROTOCOLS.get((app_protocol or name.partition("-")[0]).lower(), "TCP")
