"""The extension providers of the mesh's configuration that are services, each with the service that it is.

One that cannot be used is told and left out: policies that name it refuse what they would have asked about, and what a
Telemetry has told it is told to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymesh.control.resources.diagnostics import Report, did_you_mean
from pymesh.control.resources.extension_providers import OpenTelemetry, OtelAccessLog, ServiceProvider
from pymesh.control.resources.mesh_config import ConfigMap, ExtAuthzGrpc, ExtAuthzHttp, MeshConfig
from pymesh.control.resources.security import AuthorizationPolicy
from pymesh.control.store.services import Port, Service

if TYPE_CHECKING:
    from pymesh.control.store.store import Store

_REFUSED = "what its policies name is refused"
_UNTOLD = "it is told nothing"


@dataclass(frozen=True, slots=True)
class Authorizer:
    """Somebody who is asked about requests."""

    written: ExtAuthzGrpc | ExtAuthzHttp
    service: Service
    port: Port


@dataclass(frozen=True, slots=True)
class Collector:
    """Somebody who is told of requests by their spans."""

    written: OpenTelemetry
    service: Service
    port: Port


@dataclass(frozen=True, slots=True)
class LogCollector:
    """Somebody who is told of requests and connections by the records of an access log."""

    written: OtelAccessLog
    service: Service
    port: Port


@dataclass(frozen=True, slots=True)
class Providers:
    """Those that can be used, by name."""

    authorizers: Mapping[str, Authorizer] = field(default_factory=dict)
    collectors: Mapping[str, Collector] = field(default_factory=dict)
    log_collectors: Mapping[str, LogCollector] = field(default_factory=dict)

    def services(self) -> Iterator[Service]:
        """The services that they are."""
        yield from (one.service for one in self.authorizers.values())
        yield from (one.service for one in self.collectors.values())
        yield from (one.service for one in self.log_collectors.values())


def mesh_config(bare: Store, written: Iterable[ConfigMap], report: Report) -> MeshConfig:
    """The mesh's configuration: that of the root namespace."""
    found = MeshConfig()
    for one in written:
        if one.namespace != bare.options.root_namespace:
            report.error(
                one.metadata.place("namespace"),
                f"{one.title} is not in the root namespace",
                f"namespace: {bare.options.root_namespace}",
            )
        else:
            found = one.mesh
    return found


def gather(bare: Store, mesh: MeshConfig, report: Report) -> Providers:
    """Those of the mesh's configuration."""
    authorizers, collectors, log_collectors = {}, {}, {}
    for one in mesh.extension_providers:
        if one.authorizer is not None and (found := _found(bare, one.authorizer, _REFUSED, report)) is not None:
            authorizers[one.name] = Authorizer(one.authorizer, *found)
        if one.opentelemetry is not None and (found := _found(bare, one.opentelemetry, _UNTOLD, report)) is not None:
            collectors[one.name] = Collector(one.opentelemetry, *found)
        if one.envoy_otel_als is not None and (found := _found(bare, one.envoy_otel_als, _UNTOLD, report)) is not None:
            log_collectors[one.name] = LogCollector(one.envoy_otel_als, *found)
    return Providers(authorizers, collectors, log_collectors)


def check(policies: Iterable[AuthorizationPolicy], mesh: MeshConfig, report: Report) -> None:
    """Tell of policies that name nobody who could be asked."""
    known = [one.name for one in mesh.extension_providers if one.authorizer is not None]
    for policy in policies:
        named = policy.spec.provider
        if named is None or named.name in known:
            continue
        hint = did_you_mean(named.name, known, otherwise="describe it under extensionProviders of ConfigMap istio")
        what = f"there is no extension provider {named.name!r}"
        if named.name in mesh.providers:
            what = f"extension provider {named.name!r} is nobody who could be asked"
        report.warning(named.place("name"), f"{what}: what {policy.title} names is refused", hint)


def _found(bare: Store, asked: ServiceProvider, lost: str, report: Report) -> tuple[Service, Port] | None:
    service = _service(bare, asked)
    if service is None:
        known = _hosts(bare.services, asked.namespace)
        hint = did_you_mean(asked.host, known, otherwise="write a Service or a ServiceEntry for it")
        report.warning(asked.place("service"), f"there is no service {asked.service!r}: {lost}", hint)
        return None
    port = service.port(asked.port)
    if port is None:
        numbers = ", ".join(str(one.number) for one in service.ports)
        message = f"{service.host!r} has no port {asked.port}: {lost}"
        report.warning(asked.place("port"), message, f"known: {numbers}")
        return None
    wanted = "grpc" if asked.is_grpc else "http"
    if not (port.is_http2 if asked.is_grpc else port.is_http or port.is_sniffed):
        message = f"port {asked.port} of {service.host!r} is {port.protocol}, not {wanted.upper()}: {lost}"
        report.warning(asked.place("port"), message, f"begin the port's name with {wanted!r}, or set appProtocol")
        return None
    return service, port


def _service(bare: Store, asked: ServiceProvider) -> Service | None:
    found = bare.service(asked.host, asked.namespace or bare.options.root_namespace)
    return found if found is not None and asked.namespace in ("", found.namespace) else None


def _hosts(services: Mapping[str, Service], namespace: str) -> list[str]:
    return [host for host, one in services.items() if namespace in ("", one.namespace)]
