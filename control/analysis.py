"""What is probably not meant in a set of resources that can be used: checks across resources, by Istio's codes.

The store refuses what leads nowhere; here is what leads somewhere and does nothing, or something else than it says.
Findings of the store and of reading come with a code as well, so that one list has everything.

Whoever runs where is known from WorkloadEntries, from the endpoints of services and, for gateways, from what their
resources select; without any of those nothing is said about selectors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pymesh.control.resources.destination import ClientTls, DestinationRule
from pymesh.control.resources.diagnostics import Diagnostic, Position, Report
from pymesh.control.resources.gateway import Gateway
from pymesh.control.resources.gateway_api import KubeGateway
from pymesh.control.resources.hosts import intersection, is_within
from pymesh.control.resources.kubernetes import Service as KubeService
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.request_authentication import RequestAuthentication
from pymesh.control.resources.security import AuthorizationPolicy, PeerAuthentication
from pymesh.control.resources.traffic import HttpMatch, HttpRoute, VirtualService
from pymesh.control.resources.workloads import ServiceEntry, Sidecar, WorkloadEntry
from pymesh.control.store.discovery import protocol, tells_protocol
from pymesh.control.store.references import gateway_key
from pymesh.control.store.route_conflicts import MESH
from pymesh.control.store.services import UNTOLD
from pymesh.control.store.store import Store

#: Istio's code -> its name.
CODES: Mapping[str, str] = {
    "IST0101": "ReferencedResourceNotFound",
    "IST0106": "SchemaValidationError",
    "IST0109": "ConflictingMeshGatewayVirtualServiceHosts",
    "IST0110": "ConflictingSidecarWorkloadSelectors",
    "IST0111": "MultipleSidecarsWithoutWorkloadSelectors",
    "IST0112": "VirtualServiceDestinationPortSelectorRequired",
    "IST0118": "PortNameIsNotUnderNamingConvention",
    "IST0127": "NoMatchingWorkloadsFound",
    "IST0128": "NoServerCertificateVerificationDestinationLevel",
    "IST0129": "NoServerCertificateVerificationPortLevel",
    "IST0130": "VirtualServiceUnreachableRule",
    "IST0131": "VirtualServiceIneffectiveMatch",
    "IST0132": "VirtualServiceHostNotFoundInGateway",
    "IST0133": "SchemaWarning",
    "IST0134": "ServiceEntryAddressesRequired",
    "IST0145": "ConflictingGateways",
    "IST0173": "DestinationRuleSubsetNotSelectPods",
}

#: What the store says, and Istio's code for it. Whatever else it says is about one resource by itself.
_CODE_OF = (
    (re.compile(r"has two VirtualServices in the mesh"), "IST0109"),
    (re.compile(r"has several ports"), "IST0112"),
    (re.compile(r"there is no |has no (subset|port|such|listener)|no service is within|is not exported"), "IST0101"),
)
_MODES_OF_TLS = ("SIMPLE", "MUTUAL")


@dataclass(frozen=True, slots=True)
class Known:
    """A workload: its namespace ("" if that is not known) and its labels."""

    namespace: str
    labels: Mapping[str, str]


def coded(found: Diagnostic) -> Diagnostic:
    """A finding of reading or of the store, with its code."""
    if found.code:
        return found
    for pattern, code in _CODE_OF:
        if pattern.search(found.message):
            return replace(found, code=code)
    return replace(found, code="IST0106" if found.severity == "error" else "IST0133")


def analyze(store: Store, resources: Sequence[Resource], others: Sequence[Known], report: Report) -> None:
    """Report what is probably not meant; ``others`` are workloads that no resource tells of."""
    known = [*_workloads(store, resources), *others]
    for virtual in store.virtual_services:
        _rules(virtual, report)
        _hosts_at_gateways(store, virtual, report)
    _gateways(store, report)
    _sidecars(store.sidecars, known, report)
    if known:
        _selectors(store, known, report)
    for one in resources:
        if isinstance(one, DestinationRule):
            _destination_rule(store, one, report)
        elif isinstance(one, KubeService):
            _port_names(one, report)
        elif isinstance(one, ServiceEntry):
            _addresses(one, report)
    _empty_services(store, report)


def _workloads(store: Store, resources: Sequence[Resource]) -> Iterator[Known]:
    for one in resources:
        if isinstance(one, WorkloadEntry):
            yield Known(one.namespace, {**one.metadata.labels, **one.spec.labels})
    for service in store.services.values():
        for backend in (one for ported in service.backends.values() for one in ported):
            yield Known(backend.workload.namespace, backend.workload.labels)
    yield from (Known("", one.spec.selector) for one in store.gateways)
    yield from (Known(one.namespace, {KubeGateway.PROXY_LABEL: one.name}) for one in store.kube_gateways)


def _rules(virtual: VirtualService, report: Report) -> None:
    """A rule behind one that takes everything, and a match that an earlier rule has already."""
    taken: HttpRoute | None = None
    seen: list[tuple[HttpMatch, HttpRoute]] = []
    for number, rule in enumerate(virtual.spec.http):
        title = f"rule {number}{f' ({rule.name})' if rule.name else ''} of {virtual.title}"
        if taken is not None:
            report.warning(
                rule.at,
                f"{title} is never used: the one at {taken.at} takes everything before it",
                "move it before that one",
                "IST0130",
            )
            continue
        for match in rule.match:
            first = next((one for other, one in seen if other == match), None)
            if first is not None:
                report.warning(
                    match.at,
                    f"this match of {title} never counts: the rule at {first.at} has the same",
                    "remove it, or make the earlier one narrower",
                    "IST0131",
                )
        seen += [(match, rule) for match in rule.match]
        if not rule.match or any(_takes_everything(match) for match in rule.match):
            taken = rule


def _takes_everything(match: HttpMatch) -> bool:
    uri = match.uri
    anywhere = uri is None or uri.prefix == "/" or uri.regex in (".*", "/.*")
    return anywhere and replace(match, uri=None, name="", ignore_uri_case=False) == HttpMatch()


def _hosts_at_gateways(store: Store, virtual: VirtualService, report: Report) -> None:
    gateways = {(one.namespace, one.name): one for one in store.gateways}
    for name in virtual.spec.gateways:
        gateway = gateways.get(gateway_key(name, virtual.namespace)) if name != MESH else None
        if gateway is None:
            continue
        served = [host.rpartition("/")[2] for server in gateway.spec.servers for host in server.hosts]
        for host in virtual.spec.hosts:
            service = store.service(host, virtual.namespace) if "." not in host else None
            wanted = service.host if service is not None else host
            if not any(intersection(one, wanted) for one in served):
                report.warning(
                    virtual.spec.place("hosts"),
                    f"{host!r} of {virtual.title} is no host of {gateway.title}: it is not served there",
                    f"its hosts are {', '.join(dict.fromkeys(served))}; they are at {gateway.at}",
                    "IST0132",
                )


def _gateways(store: Store, report: Report) -> None:
    """Two Gateways for the same proxies and port that have a host in common."""
    for number, second in enumerate(store.gateways):
        for first in store.gateways[:number]:
            if _meet(first, second):
                _conflicts(first, second, report)


def _meet(first: Gateway, second: Gateway) -> bool:
    one, other = first.spec.selector.items(), second.spec.selector.items()
    return one <= other or other <= one


def _conflicts(first: Gateway, second: Gateway, report: Report) -> None:
    for server in second.spec.servers:
        for other in first.spec.servers:
            same = (server.port.number, server.bind) == (other.port.number, other.bind)
            shared = {host.rpartition("/")[2] for host in server.hosts} & {
                host.rpartition("/")[2] for host in other.hosts
            }
            if same and shared:
                report.warning(
                    server.at,
                    f"{second.title} has {', '.join(sorted(shared))} on port {server.port.number}, as {first.title}",
                    f"give each its own hosts or port; the other is at {other.at}",
                    "IST0145",
                )


def _sidecars(sidecars: Sequence[Sidecar], known: Sequence[Known], report: Report) -> None:
    for number, second in enumerate(sidecars):
        for first in sidecars[:number]:
            if first.namespace != second.namespace:
                continue
            one, other = first.spec.workload_selector, second.spec.workload_selector
            if not one.labels and not other.labels:
                report.error(
                    second.at,
                    f"{second.title} has no effect: {first.title} is for every workload of the namespace, too",
                    f"give one of them a workloadSelector; the other is at {first.at}",
                    "IST0111",
                )
            elif one.labels and len(one.labels) == len(other.labels):
                for workload in known:
                    here = workload.namespace == second.namespace
                    if here and one.selects(workload.labels) and other.selects(workload.labels):
                        report.error(
                            second.spec.place("workloadSelector"),
                            f"{second.title} and {first.title} are for the same workload",
                            f"make their selectors exclude each other; the other is at {first.at}",
                            "IST0110",
                        )
                        break


def _selectors(store: Store, known: Sequence[Known], report: Report) -> None:
    """Resources for workloads of which there are none."""
    root = store.options.root_namespace
    selecting: list[tuple[Resource, Mapping[str, str], Position]] = []
    for sidecar in store.sidecars:
        labels = sidecar.spec.workload_selector.labels
        selecting.append((sidecar, labels, sidecar.spec.place("workloadSelector")))
    policies: list[AuthorizationPolicy | PeerAuthentication | RequestAuthentication] = [
        *store.policies,
        *store.peers.policies,
        *store.request_authentications,
    ]
    for policy in policies:
        if policy.spec.selector is not None:
            selecting.append((policy, policy.spec.selector.match_labels, policy.spec.place("selector")))
    for telemetry in store.telemetries:
        if telemetry.spec.selector is not None:
            labels = telemetry.spec.selector.match_labels
            selecting.append((telemetry, labels, telemetry.spec.place("selector")))
    for one in store.filters:
        if one.spec.selector is not None:
            selecting.append((one, one.spec.selector.match_labels, one.spec.place("selector")))
    for resource, labels, at in selecting:
        namespaces = ("", resource.namespace) if resource.namespace != root else None
        if labels and not any(
            labels.items() <= workload.labels.items() and (namespaces is None or workload.namespace in namespaces)
            for workload in known
        ):
            shown = ", ".join(f"{name}: {value}" for name, value in labels.items())
            report.warning(
                at, f"{resource.title} selects no workload ({shown})", "correct the labels, or remove it", "IST0127"
            )


def _empty_services(store: Store, report: Report) -> None:
    """A service that selects workloads and finds none, where some are known at all."""
    told = any(service.backends.get(port.number) for service in store.services.values() for port in service.ports)
    for service in store.services.values() if told else ():
        if service.selector and not any(service.backends.values()):
            shown = ", ".join(f"{name}: {value}" for name, value in service.selector.items())
            report.warning(
                service.at,
                f"{service.host!r} has no endpoints: no workload has {shown}",
                "requests for it fail with 503 (UH) until there is one",
                "IST0127",
            )


def _destination_rule(store: Store, rule: DestinationRule, report: Report) -> None:
    host = rule.spec.host
    service = store.service(host, rule.namespace)
    if service is None and host.startswith("*.") and not any(is_within(one, host) for one in store.services):
        report.warning(rule.spec.place("host"), f"no service is within {host!r}", "name the service", "IST0101")
    workloads = [one.workload for ported in service.backends.values() for one in ported] if service else []
    for subset in rule.spec.subsets:
        # Without endpoints at all it is the service that has none.
        if workloads and subset.labels and not any(subset.labels.items() <= one.labels.items() for one in workloads):
            shown = ", ".join(f"{name}: {value}" for name, value in subset.labels.items())
            report.error(
                subset.at,
                f"subset {subset.name!r} of {rule.title} selects no endpoint of {host!r} ({shown})",
                "requests for it fail with 503 (UH); correct its labels, or remove it",
                "IST0173",
            )
    policies = [rule.spec.traffic_policy, *(subset.traffic_policy for subset in rule.spec.subsets)]
    for policy in policies:
        if policy is not None:
            _unverified(rule, policy.tls, "IST0128", report)
            for ported in policy.port_level_settings:
                _unverified(rule, ported.tls, "IST0129", report)


def _unverified(rule: DestinationRule, tls: ClientTls | None, code: str, report: Report) -> None:
    if tls is not None and tls.mode in _MODES_OF_TLS and tls.insecure_skip_verify:
        report.warning(
            tls.at,
            f"{rule.title} takes any certificate: whoever answers is believed",
            "name the authority with caCertificates, or remove insecureSkipVerify",
            code,
        )


def _port_names(service: KubeService, report: Report) -> None:
    for port in service.spec.ports:
        if not tells_protocol(port.name, port.app_protocol):
            shown = f"port {port.name!r}" if port.name else f"port {port.port}"
            is_looked_for = protocol(port.port, port.name, port.app_protocol) == UNTOLD
            then = "proxies look for HTTP in each connection" if is_looked_for else "it is taken for TCP"
            report.info(
                port.at,
                f"{shown} of {service.title} does not say its protocol: {then}",
                "begin the name with http-, grpc-, tcp- or the like, or set appProtocol",
                "IST0118",
            )


def _addresses(entry: ServiceEntry, report: Report) -> None:
    plain = [port for port in entry.spec.ports if port.protocol == "TCP"]
    if plain and not entry.spec.addresses:
        report.warning(
            plain[0].at,
            f"{entry.title} has a TCP port and no addresses: captured connections cannot be told to be for it",
            "give it spec.addresses",
            "IST0134",
        )
