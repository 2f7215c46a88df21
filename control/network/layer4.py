"""What AuthorizationPolicies and PeerAuthentications come to for connections: from where, to which ports.

Every step widens or keeps, and never narrows, what is let in:

* ALLOW policies count; DENY and CUSTOM only take away from them, AUDIT and dry runs do nothing;
* an identity comes from wherever workloads of its namespace are; one of another trust domain, which has to be named,
  from anywhere;
* of conditions that all have to hold, the ones that a network knows are kept;
* what is only about requests (paths, headers, tokens) is left out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pymesh.control.resources.gateway import Gateway
from pymesh.control.resources.gateway_api import KubeGateway
from pymesh.control.resources.security import AuthorizationPolicy, Condition, Rule, Source
from pymesh.control.store.store import Store
from pymesh.control.store.workloads import TLS_MODE_LABEL

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where connections come from. All of what is given must hold; what is None says nothing."""

    #: Of workloads of the mesh, in these namespaces; an empty set: in whichever.
    namespaces: frozenset[str] | None = None
    networks: tuple[Network, ...] | None = None
    #: Not from there.
    without: tuple[Network, ...] = ()
    #: Only with an identity, be it of another mesh: that may be anywhere, and mutual TLS does not keep it out.
    is_known: bool = False

    @property
    def is_anyone(self) -> bool:
        """Whether it says nothing that a network could look at."""
        return self.namespaces is None and self.networks is None and not self.without

    def narrowed(self, other: Origin) -> Origin | None:
        """Where both hold, as far as that can be said; None: nowhere."""
        namespaces = self.namespaces
        if other.namespaces is not None:
            namespaces = other.namespaces if not namespaces else namespaces & (other.namespaces or namespaces)
            if not namespaces and self.namespaces and other.namespaces:
                return None
        networks = self.networks
        if other.networks is not None:
            networks = other.networks if networks is None else tuple(_common(networks, other.networks))
            if not networks:
                return None
        return Origin(namespaces, networks, (*self.without, *other.without), self.is_known or other.is_known)


ANYONE: Final = Origin()
#: Who has an identity of another mesh, or perhaps.
ANOTHER_MESH: Final = Origin(is_known=True)
#: Who has an identity of the mesh.
THE_MESH: Final = Origin(frozenset())


@dataclass(frozen=True, slots=True)
class Opening:
    """Connections from there, to these ports; without any, to all."""

    origin: Origin
    ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Edge:
    """Proxies at the mesh's edge: they let in whoever comes, with an identity or without."""

    selector: Labels
    #: That Istio's Gateways listen on: a policy for a Gateway of the Gateway API is not about them.
    istio_ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Closed:
    """Proxies that let in what an ALLOW policy says, and what others say."""

    policy: AuthorizationPolicy
    selector: Labels
    openings: tuple[Opening, ...]
    #: The kind and name of the one of its targets that this is about.
    target: str = ""


def policies(store: Store, namespace: str) -> list[Closed]:
    """Those that count for proxies of a namespace."""
    found = []
    for one in store.policies:
        # What names its targets is for its own namespace, also in the root namespace.
        owners = (namespace,) if one.spec.target_refs else (namespace, store.options.root_namespace)
        if one.namespace not in owners:
            continue
        if one.spec.action == "ALLOW" and not one.is_dry_run:
            openings = tuple(_openings(one, namespace, store.options.trust_domain))
            found += [Closed(one, selector, openings, target) for target, selector in _selectors(store, one)]
    return found


def edges(store: Store, namespace: str) -> list[Edge]:
    """Those that may be in a namespace. A Gateway that selects by no label is run by whichever gateway there is, and
    by nothing that a network could tell from other pods.
    """
    found: dict[tuple[tuple[str, str], ...], Edge] = {}
    for one in store.gateways:
        if one.spec.selector:
            labels = tuple(sorted(one.spec.selector.items()))
            known = found.get(labels, Edge(one.spec.selector)).istio_ports
            found[labels] = Edge(one.spec.selector, known | _istio_ports(store, one))
    anywhere = frozenset[int]().union(*(_istio_ports(store, one) for one in store.gateways if not one.spec.selector))
    for kube in store.kube_gateways:
        if kube.namespace == namespace:
            selector = {KubeGateway.PROXY_LABEL: kube.name}
            found.setdefault(tuple(selector.items()), Edge(selector))
    return [Edge(one.selector, one.istio_ports | anywhere) for one in found.values()]


def _istio_ports(store: Store, one: Gateway) -> frozenset[int]:
    """The ports that a Gateway names, and those that Services before its proxies lead to."""
    named = frozenset(server.port.number for server in one.spec.servers)
    before = [service for service in store.services.values() if one.spec.selector.items() <= service.selector.items()]
    ports = (port for service in before for port in service.ports if service.selector and port.number in named)
    return named | {port.target for port in ports if isinstance(port.target, int)}


def is_strict(store: Store, namespace: str, selector: Labels) -> bool:
    """Whether every port of every workload that has these labels takes mutual TLS only."""
    if store.peers.mode(namespace, {}, 0) != "STRICT":
        return False
    for one in store.peers.policies:
        labels = one.spec.selector.match_labels if one.spec.selector is not None else {}
        modes = [one.spec.mtls.mode, *(ported.mode for ported in one.spec.port_level_mtls.values())]
        is_here = one.namespace == namespace and labels and not contradict(labels, selector)
        if is_here and any(mode not in ("STRICT", "UNSET") for mode in modes):
            return False
    return True


def contradict(one: Labels, other: Labels) -> bool:
    """Whether nothing can have both."""
    return any(other.get(name, value) != value for name, value in one.items())


def in_mesh(selector: Labels) -> dict[str, str]:
    """With the label of workloads that have a sidecar."""
    return {**selector, TLS_MODE_LABEL: "istio"}


def _selectors(store: Store, one: AuthorizationPolicy) -> Iterator[tuple[str, Labels]]:
    """Of each target; of none, what it selects itself."""
    if not one.spec.target_refs:
        yield "", one.spec.selector.match_labels if one.spec.selector is not None else {}
    for reference in one.spec.target_refs:
        target = f"{reference.kind}/{reference.name}"
        if reference.kind == "Gateway":
            yield target, {KubeGateway.PROXY_LABEL: reference.name}
        else:
            service = store.service(reference.name, one.namespace)
            if service is not None and service.selector:
                yield target, service.selector


def _openings(one: AuthorizationPolicy, namespace: str, trust_domain: str) -> Iterator[Opening]:
    for rule in one.spec.rules:
        ports = _ports(rule)
        if ports is None:
            continue
        for source in rule.from_ or (None,):
            origin: Origin | None = ANYONE if source is None else _origin(source.source, one.namespace, trust_domain)
            for condition in rule.when:
                if origin is not None:
                    origin = origin.narrowed(_conditional(condition, trust_domain))
            if origin is not None:
                yield Opening(origin, ports)


def _ports(rule: Rule) -> frozenset[int] | None:
    """Empty: all; None: none at all."""
    asked = [frozenset(map(int, one.operation.ports)) for one in rule.to]
    found = frozenset[int]() if not all(asked) else frozenset[int]().union(*asked)
    for condition in rule.when:
        if condition.key == "destination.port" and condition.values:
            wanted = frozenset(map(int, condition.values))
            found = wanted if not found else found & wanted
            if not found:
                return None
    return found


def _origin(source: Source, namespace: str, trust_domain: str) -> Origin | None:
    parts = [
        _of_principals(source.principals, trust_domain),
        _of_namespaces(source.namespaces),
        _of_accounts(source.service_accounts, namespace),
        _of_networks(source.ip_blocks),
        Origin(without=tuple(map(network, source.not_ip_blocks))),
    ]
    found: Origin | None = ANYONE
    for part in parts:
        found = found.narrowed(part) if found is not None else None
    return found


def _conditional(one: Condition, trust_domain: str) -> Origin:
    if one.key == "source.principal":
        return _of_principals(one.values, trust_domain)
    if one.key == "source.namespace":
        return _of_namespaces(one.values)
    if one.key == "source.ip":
        return _of_networks(one.values)
    return ANYONE


def _of_principals(values: Sequence[str], trust_domain: str) -> Origin:
    """`TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, or the beginning or the end of it."""
    found = set()
    for value in values:
        parts = value.split("/")
        if value == "*":
            return THE_MESH
        if parts[0] != trust_domain:
            return ANOTHER_MESH
        if len(parts) < 3 or parts[1] != "ns" or "*" in parts[2]:
            return THE_MESH
        found.add(parts[2])
    return Origin(frozenset(found)) if found else ANYONE


def _of_namespaces(values: Sequence[str]) -> Origin:
    if any("*" in value for value in values):
        return THE_MESH
    return Origin(frozenset(values)) if values else ANYONE


def _of_accounts(values: Sequence[str], namespace: str) -> Origin:
    found = frozenset(value.partition("/")[0] if "/" in value else namespace for value in values)
    return Origin(found) if found else ANYONE


def _of_networks(values: Iterable[str]) -> Origin:
    found = tuple(map(network, values))
    return Origin(networks=found) if found else ANYONE


def network(text: str) -> Network:
    """An address, or a network, as its author wrote it."""
    return ipaddress.ip_network(text, strict=False)


def _common(one: Sequence[Network], other: Sequence[Network]) -> Iterator[Network]:
    for a in one:
        for b in other:
            if a.version == b.version and a.overlaps(b):
                yield max(a, b, key=lambda found: found.prefixlen)
