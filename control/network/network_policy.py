"""Kubernetes NetworkPolicies: one for each ALLOW policy and kind of proxy, and those that let in the mesh alone.

Both kinds of policies are unions: a pod that several select takes what any of them lets in. So an ALLOW policy becomes
one NetworkPolicy. Mutual TLS is another matter: where no ALLOW policy selects a workload but its port takes the mesh's
clients only, a NetworkPolicy may let in the mesh only, and must not widen what the others say. It selects the workloads
that no ALLOW policy selects (:func:`_others`).

Pods of the mesh are known by the label that injection gives them. What the kubelet asks comes from the node, which
NetworkPolicies let in always; the sidecar's own ports (readiness, metrics) are open to everybody, as in the mesh.
A NetworkPolicy is about all protocols at once: those that the mesh does not capture stay open.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pymesh.control.network import layer4
from pymesh.control.network.layer4 import ANYONE, THE_MESH, Closed, Edge, Labels, Network, Opening, Origin
from pymesh.control.resources.kubernetes import is_ip
from pymesh.control.resources.workloads import WorkloadEntry
from pymesh.control.store.store import Store

Json = dict[str, Any]

#: Of the sidecar: probes, readiness, metrics. Never captured, so that no policy of the mesh is about them.
OWN_PORTS: Final = (15020, 15021, 15090)
#: Never captured.
_OTHER_PROTOCOLS: Final = ("UDP", "SCTP")
_NAMESPACE: Final = "kubernetes.io/metadata.name"
#: More ways to be selected by no policy are not written out.
_MOST_OTHERS: Final = 64


def export(
    store: Store, entries: Sequence[WorkloadEntry], namespaces: Iterable[str], open_ports: Sequence[int] = ()
) -> tuple[list[Json], list[str]]:
    """The NetworkPolicies for these namespaces, and what could not be said. ``entries`` are workloads without pods."""
    made: list[Json] = []
    notes: list[str] = []
    ports = tuple(sorted({*OWN_PORTS, *open_ports}))
    for namespace in sorted(set(namespaces)):
        writer = _Writer(namespace, entries, ports)
        closed = layer4.policies(store, namespace)
        edges = layer4.edges(store, namespace)
        for one in closed:
            strict = layer4.is_strict(store, namespace, one.selector)
            openings = [_of_the_mesh(opening) if strict else opening for opening in one.openings]
            # No namespace has a dot.
            name = f"{one.policy.namespace}.{one.policy.name}"
            of_target = [one.target] if one.target else []
            selector = _labels(layer4.in_mesh(one.selector))
            made.append(writer.policy(_told_apart(name, of_target), selector, openings))
            for edge in edges:
                if not layer4.contradict(edge.selector, one.selector):
                    labels = {**edge.selector, **one.selector}
                    at_edge = [*of_target, *(f"{key}={value}" for key, value in sorted(edge.selector.items()))]
                    openings = [*one.openings, *_beside(one, edge, labels, closed)]
                    made.append(writer.policy(_told_apart(f"{name}-gateway", at_edge), _labels(labels), openings))
        if layer4.is_strict(store, namespace, {}):
            others = _others([one.selector for one in closed])
            if others is None:
                notes.append(
                    f"namespace {namespace}: too many policies select by labels; mutual TLS is left to the mesh"
                )
            for number, expressions in enumerate(others or ()):
                selector = {**_labels(layer4.in_mesh({})), **({"matchExpressions": expressions} if expressions else {})}
                made.append(writer.policy(f"mutual-tls-{number}", selector, [Opening(THE_MESH)]))
        elif any(one.spec.selector is not None for one in store.peers.policies if one.namespace == namespace):
            notes.append(f"namespace {namespace}: mutual TLS is not required everywhere and is left to the mesh")
    return made, notes


class _Writer:
    """Writes for one namespace."""

    def __init__(self, namespace: str, entries: Sequence[WorkloadEntry], ports: Sequence[int]) -> None:
        self._namespace = namespace
        self._entries = entries
        self._ports = ports

    def policy(self, name: str, selector: Json, openings: Iterable[Opening]) -> Json:
        """One NetworkPolicy."""
        rules = [rule for opening in openings if (rule := self._rule(opening)) is not None]
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {
                "name": _name(f"pymesh-{name}"),
                "namespace": self._namespace,
                "labels": {"app.kubernetes.io/managed-by": "pymesh"},
            },
            "spec": {
                "podSelector": selector,
                "policyTypes": ["Ingress"],
                "ingress": [{"ports": [*map(_port, self._ports), *_not_captured()]}, *rules],
            },
        }

    def _rule(self, opening: Opening) -> Json | None:
        made: Json = {}
        origin = opening.origin
        if not origin.is_anyone:
            peers = list(self._peers(origin))
            if not peers:
                return None
            if {} not in peers:
                made["from"] = peers
        if opening.ports:
            made["ports"] = [_port(number) for number in sorted(opening.ports)]
        return made

    def _peers(self, origin: Origin) -> Iterator[Json]:
        """Any of them; an empty one is anybody."""
        if origin.namespaces is None:
            yield from _blocks(origin)
            return
        names = sorted(origin.namespaces)
        yield {"namespaceSelector": {"matchExpressions": [_in(_NAMESPACE, names)]} if names else {}}
        for entry in self._entries:
            if names and entry.namespace not in names:
                continue
            if not is_ip(entry.spec.address):
                yield {}  # a name: nobody knows here where that is
                return
            yield {"ipBlock": {"cidr": f"{entry.spec.address}/{128 if ':' in entry.spec.address else 32}"}}


def _beside(one: Closed, edge: Edge, labels: Labels, closed: Sequence[Closed]) -> Iterator[Opening]:
    """What a policy for a Gateway of the Gateway API does not close at proxies with these labels: what they listen on
    for others, unless another policy is about that.
    """
    others = (other for other in closed if not other.target and other.selector.items() <= labels.items())
    if one.target.startswith("Gateway/") and edge.istio_ports and not any(others):
        yield Opening(ANYONE, edge.istio_ports)


def _of_the_mesh(opening: Opening) -> Opening:
    return Opening(THE_MESH, opening.ports) if opening.origin == ANYONE else opening


def _others(selectors: Sequence[Labels]) -> list[list[Json]] | None:
    """Expressions that together select what none of the selectors selects; None: too many would be needed.

    Of each selector one label must be another: all ways to choose one, each a NetworkPolicy that says the same.
    """
    if any(not selector for selector in selectors):
        return []
    ways = 1
    for selector in selectors:
        ways *= len(selector)
        if ways > _MOST_OTHERS:
            return None
    chosen = itertools.product(*(sorted(selector.items()) for selector in selectors))
    return [
        [{"key": key, "operator": "NotIn", "values": [value]} for key, value in dict.fromkeys(way)] for way in chosen
    ]


def _blocks(origin: Origin) -> Iterator[Json]:
    everywhere = (layer4.network("0.0.0.0/0"), layer4.network("::/0"))
    for one in origin.networks if origin.networks is not None else everywhere:
        without = [str(other) for other in _within(one, origin.without)]
        if str(one) not in without:
            yield {"ipBlock": {"cidr": str(one), **({"except": without} if without else {})}}


def _within(one: Network, others: Sequence[Network]) -> Iterator[Network]:
    """What of the others lies in it; one that contains it is it."""
    for other in dict.fromkeys(others):
        if other.version != one.version or not other.overlaps(one):
            continue
        yield max(one, other, key=lambda network: network.prefixlen)


def _labels(labels: Mapping[str, str]) -> Json:
    return {"matchLabels": dict(labels)}


def _in(key: str, values: Sequence[str]) -> Json:
    return {"key": key, "operator": "In", "values": list(values)}


def _port(number: int) -> Json:
    return {"protocol": "TCP", "port": number}


def _not_captured() -> Iterator[Json]:
    return ({"protocol": name} for name in _OTHER_PROTOCOLS)


def _told_apart(name: str, more: Sequence[str]) -> str:
    """With what tells it from others of the same AuthorizationPolicy, whatever that is called."""
    return f"{name}-{hashlib.sha256(repr(more).encode()).hexdigest()[:10]}" if more else name


def _name(text: str) -> str:
    """A name that Kubernetes takes; one that is too long ends with what tells it from others."""
    if len(text) <= 253:
        return text
    return f"{text[:240]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
