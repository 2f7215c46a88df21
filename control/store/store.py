"""One consistent view of a mesh's resources, with every reference between them resolved.

A store is immutable and complete: :func:`build` either makes one in which every reference leads somewhere,
or reports what does not. Translation only reads it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from pymesh.control.resources import visibility
from pymesh.control.resources.destination import DestinationRule, Subset
from pymesh.control.resources.diagnostics import ConfigError, Diagnostic, Report
from pymesh.control.resources.gateway import Gateway
from pymesh.control.resources.gateway_api import HTTPRoute, KubeGateway, Listener
from pymesh.control.resources.gateway_routes import GRPCRoute, ReferenceGrant, TCPRoute, TLSRoute
from pymesh.control.resources.health_check import HealthCheckPolicy
from pymesh.control.resources.hosts import is_within
from pymesh.control.resources.kubernetes import Secret
from pymesh.control.resources.kubernetes_workloads import Namespace
from pymesh.control.resources.load import refuse_duplicates
from pymesh.control.resources.mesh_config import ConfigMap, MeshConfig
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.python_filter import PythonFilter
from pymesh.control.resources.rate_limit import LocalRateLimit
from pymesh.control.resources.request_authentication import RequestAuthentication
from pymesh.control.resources.security import AuthorizationPolicy, PeerAuthentication
from pymesh.control.resources.telemetry import Telemetry
from pymesh.control.resources.traffic import VirtualService
from pymesh.control.resources.workloads import OutboundMode, Sidecar
from pymesh.control.store import (
    addresses,
    delegates,
    discovery,
    health_checks,
    lookup,
    namespaces,
    parents,
    peers,
    pods,
    providers,
    references,
    route_conflicts,
    telemetries,
)
from pymesh.control.store.health_checks import HealthChecks
from pymesh.control.store.namespaces import Namespaces
from pymesh.control.store.parents import Displacements, Route
from pymesh.control.store.peers import Peers
from pymesh.control.store.providers import Providers
from pymesh.control.store.route_conflicts import MESH
from pymesh.control.store.services import Service
from pymesh.control.store.telemetries import Telemetries
from pymesh.control.store.workloads import Locality

R = TypeVar("R", bound=Resource)
AnyRoute = TypeVar("AnyRoute", HTTPRoute, GRPCRoute, TLSRoute, TCPRoute)


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """What holds for the whole mesh."""

    trust_domain: str = "cluster.local"
    domain: str = "cluster.local"
    access_log: Literal["TEXT", "JSON", "OFF"] = "TEXT"
    outbound_traffic_policy: OutboundMode = "ALLOW_ANY"
    #: Policies there hold for the whole mesh.
    root_namespace: str = "istio-system"
    #: Where services that have no virtual address get one from; None: they get none.
    virtual_network: ipaddress.IPv4Network | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Refreshment:
    """A store is like one before it, but for the endpoints of some services."""

    #: What was made of the one before.
    memo: dict[object, Any]
    #: Hosts of the services whose endpoints are others.
    hosts: frozenset[str]
    #: That of the one before: nothing may have been made of it yet.
    before: Refreshment | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """The mesh, as translation reads it."""

    options: MeshOptions
    services: Mapping[str, Service] = field(default_factory=dict)
    #: The oldest first; delegates are merged into those that name them.
    virtual_services: Sequence[VirtualService] = ()
    #: By the host of the service that they are for, the closest host first.
    destination_rules: Mapping[str, Sequence[DestinationRule]] = field(default_factory=dict)
    #: Those of the Gateway API in the order of the standard's ties: the oldest first, then by name.
    http_routes: Sequence[HTTPRoute] = ()
    grpc_routes: Sequence[GRPCRoute] = ()
    tls_routes: Sequence[TLSRoute] = ()
    tcp_routes: Sequence[TCPRoute] = ()
    grants: Sequence[ReferenceGrant] = ()
    gateways: Sequence[Gateway] = ()
    kube_gateways: Sequence[KubeGateway] = ()
    sidecars: Sequence[Sidecar] = ()
    filters: Sequence[PythonFilter | LocalRateLimit] = ()
    secrets: Mapping[tuple[str, str], Secret] = field(default_factory=dict)
    peers: Peers = field(default_factory=Peers)
    policies: Sequence[AuthorizationPolicy] = ()
    request_authentications: Sequence[RequestAuthentication] = ()
    #: Of the extension providers those that are services and can be used.
    providers: Providers = field(default_factory=Providers)
    health_checks: HealthChecks = field(default_factory=dict)
    #: Hosts of the services whose clients are to stay at one endpoint because a route says so.
    sticky: frozenset[str] = frozenset()
    #: Namespace and name of a pod -> where it runs, as far as that is known.
    pod_localities: Mapping[tuple[str, str], Locality] = field(default_factory=dict)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    telemetries: Telemetries = field(default_factory=Telemetries)
    namespaces: Namespaces = field(default_factory=Namespaces)
    #: Which routes of the Gateway API stand back, and where.
    displaced: Displacements = field(default_factory=dict)
    #: Room for what translation makes once for many proxies.
    memo: dict[object, Any] = field(default_factory=dict, repr=False)
    #: The same of one service, by its host: nothing of it depends on the endpoints of another service.
    made_of: dict[str, dict[object, Any]] = field(default_factory=dict, repr=False)
    #: What may still be used of another store's memo.
    refreshment: Refreshment | None = field(default=None, repr=False)

    def memos(self) -> Iterator[tuple[dict[object, Any], frozenset[str]]]:
        """What was made of this store and of those before it, with the hosts whose endpoints are others by now."""
        yield self.memo, frozenset()
        since, hosts = self.refreshment, frozenset[str]()
        while since is not None:
            hosts |= since.hosts
            yield since.memo, hosts
            since = since.before

    def service(self, host: str, namespace: str) -> Service | None:
        """The service that ``host`` means in ``namespace``: a full host, NAME.NAMESPACE, or NAME."""
        domain = self.options.domain
        candidates = [host, f"{host}.{domain}", f"{host}.svc.{domain}"]
        if "." not in host:
            candidates.insert(0, f"{host}.{namespace}.svc.{domain}")
        return next((self.services[name] for name in candidates if name in self.services), None)

    def destination_rule(self, service: Service, namespace: str) -> DestinationRule | None:
        """How clients in ``namespace`` speak to a service: as their own namespace's rule says, else the service's, else
        the root namespace's, which is for the whole mesh.

        It comes last for clients of the root namespace, too, unless it is for them alone.
        """
        rules = self.destination_rules.get(service.host, ())
        root = self.options.root_namespace
        for owner, private in ((namespace, namespace == root), (service.namespace, False), (root, False)):
            for rule in rules:
                if rule.namespace != owner or (private and rule.spec.export_to != (".",)):
                    continue
                if visibility.sees(namespace, rule.spec.export_to, owner):
                    return rule
        return None

    def subset(self, service: Service, name: str, namespace: str) -> Subset | None:
        """The subset of a service, as clients in ``namespace`` know it."""
        rule = self.destination_rule(service, namespace)
        subsets = rule.spec.subsets if rule else ()
        return next((one for one in subsets if one.name == name), None)

    def mesh_virtual_services(self, service: Service, namespace: str) -> list[VirtualService]:
        """The VirtualServices that sidecars in ``namespace`` apply to requests for a service, closest host first."""
        found = [
            (closeness, one)
            for one in self.virtual_services
            if MESH in one.spec.gateways and visibility.sees(namespace, one.spec.export_to, one.namespace)
            for closeness in (self.closeness(one, service),)
            if closeness
        ]
        return [one for _, one in sorted(found, key=lambda pair: -pair[0])]

    def closeness(self, virtual: VirtualService, service: Service) -> int:
        """How closely the hosts of a VirtualService name a service: by how many characters; 0 if not at all."""
        exact = any(self.service(host, virtual.namespace) is service for host in virtual.spec.hosts)
        wild = [len(host) - 1 for host in virtual.spec.hosts if is_within(service.host, host)]
        return len(service.host) + 1 if exact else max(wild, default=0)

    def mesh_routes(self, written: Sequence[AnyRoute], service: Service, port: int, namespace: str) -> list[AnyRoute]:
        """Those routes that sidecars in ``namespace`` apply to traffic for a port of a service."""
        heard = [one for one in written if (one.title, service.host) not in self.displaced]
        return parents.for_service(heard, service, port, namespace, self.service)

    def binds(self, route: Route, gateway: KubeGateway, listener: Listener) -> bool:
        """Whether a route is in force at a listener."""
        place = parents.listener_place(gateway, listener)
        return parents.binds(self.namespaces, route, gateway, listener) and (route.title, place) not in self.displaced

    def is_granted(self, group: str, kind: str, namespace: str, to_kind: str, owner: str, name: str) -> bool:
        """Whether a resource of a kind in ``namespace`` may refer to one of the core kinds in ``owner``."""
        return owner in ("", namespace) or any(
            one.namespace == owner and one.allows(group, kind, namespace, "", to_kind, name) for one in self.grants
        )

    def sidecar(self, namespace: str, labels: Mapping[str, str]) -> Sidecar | None:
        """The Sidecar of a workload: that of its namespace which selects most closely, else that of the root namespace
        which selects nobody in particular.
        """
        selecting = [
            one for one in self.sidecars if one.namespace == namespace and one.spec.workload_selector.selects(labels)
        ]
        root = self.options.root_namespace
        of_all = (one for one in self.sidecars if one.namespace == root and not one.spec.workload_selector.labels)
        return max(selecting, key=lambda one: len(one.spec.workload_selector.labels), default=next(of_all, None))


def build(resources: Iterable[Resource], options: MeshOptions | None = None) -> tuple[Store, tuple[Diagnostic, ...]]:
    """The store of these resources, and its warnings. Raises :class:`ConfigError` with all errors."""
    report = Report()
    store = assemble(resources, options or MeshOptions(), report)
    if report.failed:
        raise ConfigError(report.diagnostics)
    return store, report.diagnostics


def assemble(resources: Iterable[Resource], options: MeshOptions, report: Report) -> Store:
    """The store of these resources, with what is wrong in ``report``; usable only if that has no error."""
    everything = in_order(resources)
    refuse_duplicates(everything, report)
    known = pods.gather(everything)
    services = discovery.derive(everything, options.domain, report, known)
    if options.virtual_network is not None:
        services = addresses.allocate(services, options.virtual_network)
    bare = Store(options, services)
    configured = [one for one in everything if isinstance(one, ConfigMap)]
    mesh = providers.mesh_config(bare, configured, report)

    def of(kind: type[R]) -> list[R]:
        return [one for one in everything if isinstance(one, kind)]

    store = Store(
        options,
        bare.services,
        delegates.resolve(of(VirtualService), report),
        _destination_rules(bare, of(DestinationRule), report),
        of(HTTPRoute),
        of(GRPCRoute),
        of(TLSRoute),
        of(TCPRoute),
        of(ReferenceGrant),
        of(Gateway),
        of(KubeGateway),
        of(Sidecar),
        [*of(PythonFilter), *of(LocalRateLimit)],
        {(one.namespace, one.name): one for one in of(Secret)},
        peers.gather(of(PeerAuthentication), options.root_namespace, report),
        of(AuthorizationPolicy),
        of(RequestAuthentication),
        providers.gather(bare, mesh, report),
        health_checks.gather(bare, of(HealthCheckPolicy), report),
        frozenset(_sticky(bare, of(HTTPRoute))),
        known.places(),
        mesh,
        telemetries.gather(of(Telemetry), report),
        namespaces.gather(of(Namespace)),
    )
    store = replace(store, displaced=route_conflicts.displaced(store))
    references.check(store, report)
    providers.check(store.policies, mesh, report)
    telemetries.check(store.telemetries, mesh, report)
    return store


def in_order(resources: Iterable[R]) -> list[R]:
    """The oldest first, then by name."""
    return sorted(resources, key=lambda one: one.seniority)


def _sticky(bare: Store, routes: Iterable[HTTPRoute]) -> Iterator[str]:
    for route in routes:
        for rule in route.spec.rules:
            for backend in rule.backend_refs if rule.session_persistence is not None else ():
                service = bare.service(backend.name, backend.namespace or route.namespace)
                if backend.is_service and service is not None:
                    yield service.host


def _destination_rules(
    bare: Store, written: Iterable[DestinationRule], report: Report
) -> dict[str, list[DestinationRule]]:
    exact: dict[str, list[DestinationRule]] = {}
    wild: list[DestinationRule] = []
    for rule in written:
        host = rule.spec.host
        if host == "*" or (host.startswith("*.") and host not in bare.services):
            wild.append(rule)
            continue
        service = lookup.service(bare, rule.spec, "host", host, rule.namespace, report)
        if service is None:
            continue
        rules = exact.setdefault(service.host, [])
        for first in rules:
            if first.namespace == rule.namespace:
                report.error(
                    rule.spec.place("host"),
                    f"{service.host!r} has two DestinationRules",
                    f"move this into the one at {first.at}",
                    rival=first.at,
                )
        rules.append(rule)
    wild.sort(key=lambda rule: -len(rule.spec.host))
    found = {
        service: [
            *exact.get(service, ()),
            *(one for one in wild if one.spec.host == "*" or is_within(service, one.spec.host)),
        ]
        for service in bare.services
    }
    return {host: rules for host, rules in found.items() if rules}
