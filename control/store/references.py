"""Every reference from one resource to another must lead somewhere; targets of policies and filters are told of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymesh.control.resources import visibility
from pymesh.control.resources.decode import Located
from pymesh.control.resources.destination import DestinationRule
from pymesh.control.resources.diagnostics import Report, did_you_mean
from pymesh.control.resources.gateway import Gateway, Server
from pymesh.control.resources.gateway_api import GROUP, KubeGateway
from pymesh.control.resources.hosts import is_within
from pymesh.control.resources.python_filter import PythonFilter
from pymesh.control.resources.rate_limit import LocalRateLimit
from pymesh.control.resources.request_authentication import RequestAuthentication
from pymesh.control.resources.security import AuthorizationPolicy
from pymesh.control.resources.traffic import CLAIMS, Destination, TcpRoute, TlsRoute, VirtualService
from pymesh.control.resources.workloads import Sidecar
from pymesh.control.store import credentials, jwks, lookup, route_references
from pymesh.control.store.route_conflicts import MESH, rivals, virtual_services
from pymesh.control.store.services import Service

if TYPE_CHECKING:
    from pymesh.control.store.store import Store


def check(store: Store, report: Report) -> None:
    """Report every reference that leads nowhere: an error, or a warning where nothing is lost by it."""
    for virtual in store.virtual_services:
        _virtual_service(store, virtual, report)
    route_references.check(store, report)
    for gateway in store.gateways:
        for server in gateway.spec.servers:
            _credential(store, gateway, server, report)
    for rules in store.destination_rules.values():
        for rule in rules:
            _client_credential(store, rule, report)
    for kube in store.kube_gateways:
        _kube_gateway(store, kube, report)
    for sidecar in store.sidecars:
        _sidecar(store, sidecar, report)
    for one in (*store.filters, *store.policies, *store.request_authentications):
        _selected(store, one, report)
    for tokens in store.request_authentications:
        jwks.check(store, tokens, report)
    for host, known in store.services.items():
        _one_virtual_service(store, host, known, report)


def gateway_key(reference: str, namespace: str) -> tuple[str, str]:
    """Namespace and name of a Gateway as ``VirtualService.gateways`` names it."""
    before, slash, after = reference.rpartition("/")
    return (namespace if before == "." else before, after) if slash else (namespace, reference)


def _virtual_service(store: Store, virtual: VirtualService, report: Report) -> None:
    spec, lost, places = virtual.spec, report.part(), report.part()
    known = {(one.namespace, one.name): one for one in store.gateways}
    #: Of the servers at which it is used, if it is at gateways.
    numbers: set[int] | None = None
    has_place = any(gateway_key(name, virtual.namespace) in known for name in spec.gateways)
    used: list[tuple[Located, tuple[str, ...]]] = [(spec, spec.gateways)]
    used += [(match, match.gateways) for rule in spec.http for match in rule.match]
    used += [(match, match.gateways) for rule in spec.tls for match in rule.match]
    used += [(match, match.gateways) for rule in spec.tcp for match in rule.match]
    for owner, names in used:
        for name in names:
            if name == MESH:
                continue
            gateway = known.get(gateway_key(name, virtual.namespace))
            numbers = (numbers or set()) | {one.port.number for one in (gateway.spec.servers if gateway else ())}
            if gateway is None:
                names_here = [
                    one if namespace == virtual.namespace else f"{namespace}/{one}" for namespace, one in known
                ]
                places.error(
                    owner.place("gateways"),
                    f"there is no Gateway {name!r}",
                    did_you_mean(name, [*names_here, MESH]),
                )
    for rule in spec.http:
        for match in rule.match:
            asked = [name for name in (*match.headers, *match.without_headers) if name.startswith(CLAIMS)]
            if asked and MESH in (match.gateways or spec.gateways):
                hint = "name the gateways under 'gateways', without 'mesh'"
                # A delegate is right at gateways: who brings it to the sidecars is wrong.
                at = match.at if match.at.file == virtual.at.file else spec.place("gateways")
                report.error(at, f"{asked[0]!r}: sidecars of clients know no claims of tokens", hint)
    if MESH in spec.gateways:
        for host in spec.hosts:
            if not host.startswith("*"):
                found = lookup.service(store, spec, "hosts", host, virtual.namespace, places)
                has_place = has_place or found is not None
                continue
            has_place = True
            if host not in store.services and not any(is_within(known, host) for known in store.services):
                report.warning(spec.place("hosts"), f"no service is within {host!r}", "name the services")
    for rule in spec.http:
        targets = [share.destination for share in rule.route] + [copy.destination for copy in rule.copies]
        for target in targets:
            _destination(store, target, virtual.namespace, numbers, True, lost)
    l4: list[TlsRoute | TcpRoute] = [*spec.tls, *spec.tcp]
    for tcp in l4:
        for tcp_share in tcp.route:
            _destination(store, tcp_share.destination, virtual.namespace, numbers, False, lost)
    # Where rules of a delegate lead is the delegate's, and it may have a place in another.
    report.add_dangling(lost)
    if has_place:
        report.add_dangling(places)
    else:
        report.add(places.diagnostics)


def _destination(
    store: Store, destination: Destination, namespace: str, servers: set[int] | None, http: bool, report: Report
) -> None:
    namespace = destination.home or namespace
    found = lookup.service(store, destination, "host", destination.host, namespace, report)
    if found is None:
        return
    rules = store.destination_rules.get(found.host, ())
    names = [one.name for rule in rules for one in rule.spec.subsets]
    if destination.subset and destination.subset not in names:
        report.error(
            destination.place("subset"),
            f"{found.host!r} has no subset {destination.subset!r}",
            did_you_mean(destination.subset, names, otherwise="define it in a DestinationRule for the host"),
        )
    if destination.port is not None:
        port = found.port(destination.port.number)
        lookup.check_port(found, port, destination.port, "number", destination.port.number, http, report)
    elif servers is not None and len(found.ports) > 1 and not any(found.port(number) for number in servers):
        numbers = ", ".join(str(port.number) for port in found.ports)
        report.error(destination.at, f"{found.host!r} has several ports", f"add port.number: one of {numbers}")


def _credential(store: Store, gateway: Gateway, server: Server, report: Report) -> None:
    tls = server.tls
    if tls is None:
        return
    field = "credentialName" if tls.credential_name else "credentialNames"
    for number, name in enumerate(tls.credentials):
        # The first of several brings the authority.
        authority = tls.asks_for_certificate and number == 0
        credentials.check(store.secrets, gateway.namespace, name, tls, field, report, authority=authority)


def _client_credential(store: Store, rule: DestinationRule, report: Report) -> None:
    """A DestinationRule's Secrets are read in the namespace of the proxy; one namespace at least must have them. What
    is wrong with those of another namespace is told its own proxies.

    Without them nobody is reached by the rule's TLS. Without the rule all would be, and in plain text.
    """
    found = report.part()
    policies = [rule.spec.traffic_policy, *(subset.traffic_policy for subset in rule.spec.subsets)]
    for policy in policies:
        for tls in (policy.tls, *(ported.tls for ported in policy.port_level_settings)) if policy is not None else ():
            if tls is None or not tls.credential_name:
                continue
            names = {tls.credential_name, f"{tls.credential_name}-cacert"}
            holders = {where for where, name in store.secrets if name in names}
            if holders and rule.namespace not in holders:
                continue
            credentials.check_client(store.secrets, rule.namespace, tls, found)
    report.add_dangling(found)


def _kube_gateway(store: Store, gateway: KubeGateway, report: Report) -> None:
    for listener in gateway.spec.listeners:
        for reference in listener.tls.certificate_refs if listener.tls else ():
            owner = reference.namespace or gateway.namespace
            if not store.is_granted(GROUP, "Gateway", gateway.namespace, "Secret", owner, reference.name):
                report.error(
                    reference.place("namespace"),
                    f"namespace {owner!r} does not let {gateway.title} use its Secret {reference.name!r}",
                    f"write a ReferenceGrant there, from Gateway in {gateway.namespace!r} to Secret",
                )
                continue
            credentials.check(store.secrets, owner, reference.name, reference, "name", report)


def _sidecar(store: Store, sidecar: Sidecar, report: Report) -> None:
    lost = report.part()
    for listener in sidecar.spec.egress:
        for written in listener.hosts:
            namespace, _, host = written.partition("/")
            if "*" in written or namespace in (".", "~"):
                continue  # a pattern may match nothing
            found = store.services.get(host)
            if found is None or found.namespace != namespace:
                hint = report.closest(
                    written, lambda: (f"{one.namespace}/{one.host}" for one in store.services.values())
                )
                lost.error(listener.place("hosts"), f"there is no service {written!r}", hint)
    report.add_dangling(lost)


def _selected(
    store: Store, one: PythonFilter | LocalRateLimit | AuthorizationPolicy | RequestAuthentication, report: Report
) -> None:
    """A target that is not there selects nothing, as with Istio: the others are guarded whatever happens to it."""
    for target in one.spec.target_refs:
        if target.kind == "Service":
            # Whether it is exported does not matter: what serves it is meant, not who asks for it.
            found = store.service(target.name, one.namespace)
            known = [each.name for each in store.services.values() if each.namespace == one.namespace]
            if found is not None and found.namespace == one.namespace:
                continue
        else:
            known = [g.name for g in (*store.gateways, *store.kube_gateways) if g.namespace == one.namespace]
            if target.name in known:
                continue
        report.warning(
            target.place("name"),
            f"there is no {target.kind} {one.namespace}/{target.name}: nothing is selected by it",
            did_you_mean(target.name, known),
        )


def _one_virtual_service(store: Store, host: str, known: Service, report: Report) -> None:
    """A service has one VirtualService, or routes of the Gateway API if one of those is the oldest."""
    virtual = virtual_services(store, known)
    for number, second in enumerate(virtual):
        for first in virtual[:number]:
            alike = store.closeness(first, known) == store.closeness(second, known)
            if alike and visibility.overlap(
                first.spec.export_to, first.namespace, second.spec.export_to, second.namespace
            ):
                report.error(
                    second.spec.place("hosts"),
                    f"{host!r} has two VirtualServices in the mesh",
                    f"move this into the one at {first.at}",
                    rival=first.at,
                )
                break
    oldest, _ = rivals(store, known)
    if oldest is None or isinstance(oldest, VirtualService):
        return
    for one in virtual:
        report.error(
            one.spec.place("hosts"),
            f"{host!r} has both a VirtualService and a {type(oldest).__name__}",
            f"keep one of them; the {type(oldest).__name__} is at {oldest.at}",
            rival=oldest.at,
        )
