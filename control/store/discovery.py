"""From resources to services: what Services and EndpointSlices, ServiceEntries and WorkloadEntries say together."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import get_args

from pymesh.control.resources import visibility
from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.kubernetes import EndpointSlice, is_ip
from pymesh.control.resources.kubernetes import Service as KubeService
from pymesh.control.resources.locality import DISTRIBUTION_ANNOTATION, TrafficDistribution
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.workloads import ServiceEntry, WorkloadEntry
from pymesh.control.store import slices, workloads
from pymesh.control.store.pods import NO_PODS, Pods
from pymesh.control.store.services import UNTOLD, Backend, Port, Resolution, Service
from pymesh.control.store.workloads import Workload

_PROTOCOLS = {
    "http": "HTTP", "http2": "HTTP2", "grpc": "GRPC", "https": "HTTPS", "tls": "TLS", "tcp": "TCP",
    "kubernetes.io/h2c": "HTTP2", "kubernetes.io/ws": "HTTP", "kubernetes.io/wss": "HTTPS",
    "mongo": "TCP", "redis": "TCP", "mysql": "TCP",
}  # fmt: skip
#: Whoever looks for what a client says there waits in vain: FTP, SSH, SMTP, DNS (as Istio), POP3, IMAP, MySQL, and
#: MongoDB (as Istio).
_SERVER_SPEAKS_FIRST = frozenset({21, 22, 25, 53, 110, 143, 587, 3306, 27017})
_RESOLUTIONS: Mapping[str, Resolution] = {
    "STATIC": "EDS",
    "DNS": "DNS",
    "DNS_ROUND_ROBIN": "DNS_ROUND_ROBIN",
    "NONE": "NONE",
}


def derive(resources: Iterable[Resource], domain: str, report: Report, known: Pods = NO_PODS) -> dict[str, Service]:
    """The services by host."""
    everything = list(resources)
    entries = [workloads.from_entry(one) for one in everything if isinstance(one, WorkloadEntry)]
    # Of pods there are many, and few ServiceEntries ask for them.
    selects = any(isinstance(one, ServiceEntry) and one.spec.workload_selector for one in everything)
    selectable = [*entries, *(known.serving() if selects else ())]
    sliced: dict[tuple[str, str], list[EndpointSlice]] = {}
    for one in everything:
        if isinstance(one, EndpointSlice):
            owner = one.metadata.labels.get(EndpointSlice.SERVICE_LABEL, "")
            sliced.setdefault((one.namespace, owner), []).append(one)
    found: dict[str, Service] = {}
    other_names: list[tuple[Service, str]] = []
    for one in everything:
        if isinstance(one, KubeService):
            here = sliced.pop((one.namespace, one.name), [])
            made = [from_kubernetes(one, entries, here, known, domain, report)]
            if one.spec.external_name:
                other_names.append((made[0], one.spec.external_name))
        elif isinstance(one, ServiceEntry):
            made = _from_service_entry(one, selectable, report)
        else:
            continue
        for service in made:
            first = found.setdefault(service.host, service)
            if first is not service:
                report.error(
                    service.at, f"host {service.host!r} is defined twice", f"the first is at {first.at}", rival=first.at
                )
    for (namespace, owner), orphans in sliced.items():
        for orphan in orphans:
            slices.orphan(orphan, namespace, owner, report)
    return {**found, **_other_names(found, other_names, report)}


def _other_names(
    found: Mapping[str, Service], named: Iterable[tuple[Service, str]], report: Report
) -> dict[str, Service]:
    """ExternalName services that name another service of the mesh: served by what serves that one.

    Which says no ports has those where the name is heard, for HTTP; other connections tell the address of the service
    that is meant, and are for that.
    """
    names = {service.host for service, _ in named}
    resolved = {}
    for service, external in named:
        target = found.get(external.removesuffix("."))
        if target is None or found.get(service.host) is not service:
            continue
        if target.host in names:
            hint = "name a service that is not an ExternalName itself"
            report.error(service.at, f"{external!r} is only another name, too", hint)
            continue
        ports = service.ports or tuple(port for port in target.ports if port.is_http)
        missing, lost = [port.number for port in ports if target.port(port.number) is None], report.part()
        for number in missing:
            numbers = ", ".join(str(port.number) for port in target.ports)
            lost.error(service.at, f"{target.host!r} has no port {number}", f"known: {numbers}")
        report.add_dangling(lost)
        backends = {port.number: target.backends.get(port.number, ()) for port in ports}
        resolved[service.host] = replace(
            service,
            ports=ports,
            resolution=target.resolution,
            external=target.external,
            backends=backends,
            headless=False,
        )
    return resolved


def from_kubernetes(
    service: KubeService,
    entries: list[Workload],
    sliced: list[EndpointSlice],
    known: Pods,
    domain: str,
    report: Report,
) -> Service:
    """The service that a Kubernetes Service is, with what serves it."""
    name, namespace, spec = service.name, service.namespace, service.spec
    ports = tuple(
        Port(
            port.port,
            port.name,
            protocol(port.port, port.name, port.app_protocol),
            port.port if port.target_port is None else port.target_port,
            bool(port.app_protocol),
        )
        for port in spec.ports
    )
    resolution: Resolution = "EDS"
    selected = workloads.select(entries, namespace, spec.selector)
    if spec.external_name:
        resolution = "DNS"
        selected = [Workload(name, namespace, spec.external_name.removesuffix("."), at=spec.place("externalName"))]
    selected = _with_addresses(selected, resolution, service.title, report)
    backends: dict[int, tuple[Backend, ...]] = {}
    for port in ports:
        for workload in selected:
            if _reached(port, workload) is None:
                report.warning(
                    service.at,
                    f"{workload.name} has no port {port.target!r} of {service.title}",
                    "name it under the entry's ports",
                )
        reached = _backends(port, selected) + slices.backends(sliced, port, spec.publish_not_ready_addresses, known)
        backends[port.number] = _in_order(reached)
    return Service(
        f"{name}.{namespace}.svc.{domain}",
        name,
        namespace,
        ports,
        resolution,
        bool(spec.external_name),
        (name, f"{name}.{namespace}", f"{name}.{namespace}.svc"),
        spec.selector,
        backends,
        service.at,
        spec.virtual_ips,
        spec.is_headless,
        export_to=_exported(service, report),
        awaited={port.number: slices.awaited(sliced, port) for port in ports if isinstance(port.target, str)},
        distribution=spec.traffic_distribution or _distribution(service, report),
        keeps_clients=spec.session_affinity == "ClientIP",
        on_node=spec.internal_traffic_policy == "Local",
        precedence=(False, service.metadata.age, f"{namespace}/{name}"),
    )


def _exported(service: KubeService, report: Report) -> tuple[str, ...]:
    written = service.metadata.annotations.get(visibility.ANNOTATION, "")
    export_to = tuple(part for part in (part.strip() for part in written.split(",")) if part)
    for problem in visibility.problems(export_to, "annotations"):
        report.error(service.metadata.place(problem.field), f"{visibility.ANNOTATION}: {problem.message}", problem.hint)
    return export_to


def _distribution(resource: KubeService | ServiceEntry, report: Report) -> TrafficDistribution | None:
    written = resource.metadata.annotations.get(DISTRIBUTION_ANNOTATION, "")
    for known in get_args(TrafficDistribution):
        if written == known:
            return known  # type: ignore[no-any-return]
    if written:
        known = ", ".join(sorted(get_args(TrafficDistribution)))
        place = resource.metadata.place("annotations")
        report.error(place, f"{DISTRIBUTION_ANNOTATION}: {written!r} is not supported", f"known: {known}")
    return None


def _from_service_entry(entry: ServiceEntry, selectable: list[Workload], report: Report) -> list[Service]:
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
    resolution = _RESOLUTIONS[spec.resolution]
    selector = spec.workload_selector.labels if spec.workload_selector else {}
    serving = [
        workloads.from_endpoint(endpoint, f"{entry.name}-{n}", entry.namespace, endpoint.labels)
        for n, endpoint in enumerate(spec.endpoints)
    ]
    if spec.workload_selector is not None:
        selected = workloads.select(selectable, entry.namespace, selector)
        serving = _with_addresses(selected, resolution, entry.title, report)
    found = []
    for host in spec.hosts:
        here = serving
        if resolution in ("DNS", "DNS_ROUND_ROBIN") and not here and spec.workload_selector is None:
            here = [Workload(entry.name, entry.namespace, host, at=spec.place("hosts"))]
        found.append(
            Service(
                host,
                host,
                entry.namespace,
                ports,
                resolution,
                spec.location == "MESH_EXTERNAL",
                (),
                selector,
                {port.number: _in_order(_backends(port, here)) for port in ports},
                spec.place("hosts"),
                tuple(_network(one) for one in spec.addresses),
                subject_alt_names=spec.subject_alt_names,
                export_to=spec.export_to,
                distribution=_distribution(entry, report),
                precedence=(True, entry.metadata.age, f"{entry.namespace}/{entry.name}/{host}"),
            )
        )
    return found


def _with_addresses(found: list[Workload], resolution: Resolution, owner: str, report: Report) -> list[Workload]:
    """Those that can be reached; without DNS a name cannot."""
    if resolution == "DNS":
        return found
    for one in found:
        if not is_ip(one.address):
            hint = "give it an IP address, or select it in a ServiceEntry with resolution: DNS"
            report.warning(one.at, f"{owner} leaves {one.name} out: {one.address!r} is a name", hint)
    return [one for one in found if is_ip(one.address)]


def _backends(port: Port, found: Iterable[Workload]) -> list[Backend]:
    return [Backend(one, number) for one in found if (number := _reached(port, one)) is not None]


def _in_order(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    return tuple(sorted(backends, key=lambda one: (one.workload.address, one.port)))


def _reached(port: Port, workload: Workload) -> int | None:
    """The workload's port that serves a service's port: by name, else by number."""
    for name in (port.name, port.target):
        if isinstance(name, str) and name in workload.ports:
            return workload.ports[name]
    return port.target if isinstance(port.target, int) else None


def _network(text: str) -> str:
    """An address, or a network in its canonical form. One of a single address is that address."""
    network = ipaddress.ip_network(text, strict=False)
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def tells_protocol(name: str, app_protocol: str) -> bool:
    """Whether ``appProtocol`` or the name of a port says what is spoken there."""
    return _word(name, app_protocol) in _PROTOCOLS


def protocol(number: int, name: str, app_protocol: str) -> str:
    """Istio's rule: ``appProtocol``, else the port's name, up to the first dash. What neither says is looked for."""
    return _PROTOCOLS.get(_word(name, app_protocol), "TCP" if number in _SERVER_SPEAKS_FIRST else UNTOLD)


def _word(name: str, app_protocol: str) -> str:
    """The word that says it."""
    written = (app_protocol or name).lower()
    return written if "/" in written else written.partition("-")[0]
