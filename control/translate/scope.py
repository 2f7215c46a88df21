"""What one translation is about, and what it has come across so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pymesh.control.resources.diagnostics import Position, Report
from pymesh.control.resources.traffic import Destination
from pymesh.control.store.services import Port, Service
from pymesh.control.store.store import Store
from pymesh.control.translate import names
from pymesh.control.translate.proxy import Proxy


@dataclass(slots=True)
class Scope:
    """One proxy's view. Resolving a destination also asks for its clusters."""

    store: Store
    proxy: Proxy
    report: Report = field(default_factory=Report)
    needed: dict[tuple[str, int], tuple[Service, Port]] = field(default_factory=dict)
    #: What was made of those, to be held for as long as the proxy is connected.
    clusters: dict[tuple[str, int], Any] = field(default_factory=dict)
    #: Clusters by name that are of no service's port: servers of keys.
    key_servers: dict[str, Any] = field(default_factory=dict)
    #: What :mod:`pymesh.control.translate.access` has made so far.
    guards: dict[Any, list[dict[str, Any]]] = field(default_factory=dict)

    def cluster(
        self,
        host: str,
        namespace: str,
        subset: str,
        port: int | None,
        default: int | None,
        at: Position,
        *,
        tcp: bool = False,
    ) -> str | None:
        """The cluster that a destination means; None, and a warning, if it has no such port here."""
        service = self.store.service(host, namespace)
        if service is None:
            return None  # the store has told of it
        if not service.is_visible(self.proxy.namespace):
            message = f"{service.host!r} is not exported to namespace {self.proxy.namespace!r}"
            self.report.warning(at, message, f"add it to exportTo of the service at {service.at}")
            return None
        wanted = port if port is not None else default
        found = service.port(wanted) if wanted is not None else None
        if found is None and port is None and len(service.ports) == 1:
            found = service.ports[0]
        if found is None:
            self.report.warning(at, f"{service.host!r} has no port {wanted}", "add port.number to the destination")
            return None
        if subset and self.store.subset(service, subset, self.proxy.namespace) is None:
            message = f"{service.host!r} has no subset {subset!r} for clients in {self.proxy.namespace!r}"
            self.report.warning(at, message, "the DestinationRule of their own namespace comes first")
            return None
        return self.use(service, found, subset, tcp=tcp)

    def destination(self, target: Destination, namespace: str, default: int | None, *, tcp: bool = False) -> str:
        """The same of a VirtualService in ``namespace``; a destination that is not there gets its share of failures
        (503), as with Istio.
        """
        home, port = target.home or namespace, target.port.number if target.port else None
        found = self.cluster(target.host, home, target.subset, port, default, target.at, tcp=tcp)
        service = self.store.service(target.host, home)
        return found or f"outbound|{port or default or 0}|{target.subset}|{service.host if service else target.host}"

    def serves(self, name: str) -> bool:
        """Whether the proxy is a workload behind the service of that name in its own namespace."""
        service = self.store.service(name, self.proxy.namespace)
        return service is not None and service.selects(self.proxy.namespace, self.proxy.labels)

    def use(self, service: Service, port: Port, subset: str = "", *, tcp: bool = False) -> str:
        """The cluster of a port, which the proxy will be given; with ``tcp`` the one for connections."""
        if (service.host, port.number) not in self.needed:
            self._caution(service, port)
        self.needed[service.host, port.number] = (service, port)
        return names.outbound(service, port, subset, tcp=tcp)

    def _caution(self, service: Service, port: Port) -> None:
        """Warn of a service that this proxy cannot reach as its resource says."""
        if service.resolution == "NONE" and not self.proxy.is_captured:
            who = f"{self.proxy.name}.{self.proxy.namespace}"  # asked only here: few have their name in common
            self.report.warning(
                service.at,
                f"{service.host!r} is where the client goes, and {who} cannot see that",
                "capture the workload's traffic (INTERCEPTION_MODE), or use resolution: DNS or STATIC",
            )
        inside = {one.workload.in_mesh for one in service.backends[port.number]}
        if service.headless and self.proxy.is_captured and len(inside) > 1:
            self.report.warning(
                service.at,
                f"{service.host!r} is reached over mutual TLS, which some of its endpoints do not speak",
                "give all of them a proxy, or set tls.mode: DISABLE in a DestinationRule",
            )
