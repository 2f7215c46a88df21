"""The extension providers of the mesh's configuration, each with the service that it is.

One that cannot be used is told and left out: policies that name it refuse what they would have asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymesh.control.resources.diagnostics import Report, did_you_mean
from pymesh.control.resources.mesh_config import ConfigMap, ExtAuthz, ExtAuthzGrpc, ExtensionProvider
from pymesh.control.resources.security import AuthorizationPolicy
from pymesh.control.store.services import Port, Service

if TYPE_CHECKING:
    from pymesh.control.store.store import Store

_REFUSED = "what its policies name is refused"


@dataclass(frozen=True, slots=True)
class Provider:
    """An external authorizer."""

    written: ExtensionProvider
    service: Service
    port: Port


def gather(bare: Store, written: Iterable[ConfigMap], report: Report) -> dict[str, Provider]:
    """Those that can be used, by name."""
    found = {}
    for one in written:
        if one.namespace != bare.options.root_namespace:
            report.error(
                one.metadata.place("namespace"),
                f"{one.title} is not in the root namespace",
                f"namespace: {bare.options.root_namespace}",
            )
            continue
        for provider in one.mesh.extension_providers:
            known = _found(bare, provider, report)
            if known is not None:
                found[provider.name] = known
    return found


def check(policies: Iterable[AuthorizationPolicy], written: Iterable[ConfigMap], report: Report) -> None:
    """Tell of policies that name nobody."""
    known = [provider.name for one in written for provider in one.mesh.extension_providers]
    for policy in policies:
        named = policy.spec.provider
        if named is not None and named.name not in known:
            hint = did_you_mean(named.name, known, otherwise="describe it under extensionProviders of ConfigMap istio")
            message = f"there is no extension provider {named.name!r}: what {policy.title} names is refused"
            report.warning(named.place("name"), message, hint)


def _found(bare: Store, provider: ExtensionProvider, report: Report) -> Provider | None:
    asked = provider.authorizer
    service = _service(bare, asked)
    if service is None:
        known = _hosts(bare.services, asked.namespace)
        hint = did_you_mean(asked.host, known, otherwise="write a Service or a ServiceEntry for it")
        report.warning(asked.place("service"), f"there is no service {asked.service!r}: {_REFUSED}", hint)
        return None
    port = service.port(asked.port)
    if port is None:
        numbers = ", ".join(str(one.number) for one in service.ports)
        message = f"{service.host!r} has no port {asked.port}: {_REFUSED}"
        report.warning(asked.place("port"), message, f"known: {numbers}")
        return None
    wanted = "grpc" if isinstance(asked, ExtAuthzGrpc) else "http"
    if not (port.is_http2 if wanted == "grpc" else port.is_http):
        message = f"port {asked.port} of {service.host!r} is {port.protocol}, not {wanted.upper()}: {_REFUSED}"
        report.warning(asked.place("port"), message, f"begin the port's name with {wanted!r}, or set appProtocol")
        return None
    return Provider(provider, service, port)


def _service(bare: Store, asked: ExtAuthz) -> Service | None:
    found = bare.service(asked.host, asked.namespace or bare.options.root_namespace)
    return found if found is not None and asked.namespace in ("", found.namespace) else None


def _hosts(services: Mapping[str, Service], namespace: str) -> list[str]:
    return [host for host, one in services.items() if namespace in ("", one.namespace)]
