"""What a sidecar has in common with others: everything on the way out of its workload.

It is made once for all that are alike. Alike are those with the same namespace, place and kind of capture, and with the
same values of those labels that were asked for while it was made: which they are is not declared anywhere, it is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Container, ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from pymesh.control.resources.diagnostics import Diagnostic
from pymesh.control.resources.workloads import Sidecar
from pymesh.control.store.services import Port, Service
from pymesh.control.translate import clusters, origination
from pymesh.control.translate.scope import Scope
from pymesh.control.xds import pb
from pymesh.control.xds.layers import Layer

#: Listeners and route tables of the way out, for a scope that has not been used.
Make = Callable[[Scope], tuple[list[Any], list[Any], list[Any]]]


@dataclass(frozen=True, slots=True)
class Outbound:
    """All of the way out."""

    layers: Mapping[str, Layer]
    needed: Mapping[tuple[str, int], tuple[Service, Port]]
    warnings: tuple[Diagnostic, ...]
    #: The labels that were asked for, with what they were; None: there was none.
    asked: Mapping[str, str | None]
    #: Held, so that nothing else gets its identity.
    resource: Sidecar | None

    def is_for(self, labels: Mapping[str, str]) -> bool:
        """Whether a workload with these labels has the same."""
        return all(labels.get(name) == value for name, value in self.asked.items())


def outbound(scope: Scope, resource: Sidecar | None, make: Make) -> Outbound:
    """The way out of a workload; its warnings are reported."""
    proxy = scope.proxy
    key = (
        "outbound",
        proxy.namespace,
        proxy.is_ipv6,
        proxy.is_envoy,
        proxy.interception,
        proxy.locality,
        proxy.cluster_id,
        proxy.mark,
        id(resource),
    )
    found = _known(scope, key)
    if found is None:
        found = _made(scope, resource, make)
        # What names the proxy is not what others should read.
        if not any(proxy.name in one.message for one in found.warnings):
            scope.store.memo.setdefault(key, []).append(found)
    scope.report.add(found.warnings)
    return found


def _known(scope: Scope, key: object) -> Outbound | None:
    """What was made of this store, or of one before it and is refreshed."""
    for memo, hosts in scope.store.memos():
        found = next((one for one in memo.get(key, ()) if one.is_for(scope.proxy.labels)), None)
        if found is None:
            continue
        if memo is not scope.store.memo:
            found = _refreshed(found, scope, hosts)
            scope.store.memo.setdefault(key, []).append(found)
        return found
    return None


def _refreshed(found: Outbound, scope: Scope, hosts: frozenset[str]) -> Outbound:
    """The same with the endpoints that services of these hosts have now."""
    moved = [key for key in found.needed if key[0] in hosts]
    if not moved:
        return found
    needed = dict(found.needed)
    own: dict[str, Any] = {}
    endpoints: dict[str, Any] = {}
    for host, number in moved:
        service = scope.store.services[host]
        port = found.needed[host, number][1]
        needed[host, number] = (service, port)
        made, assignments = clusters.outbound(scope.store, scope.proxy, service, port)
        if scope.proxy.mark is not None:
            for cluster in made:
                clusters.mark(cluster, scope.proxy.mark)
        own |= {one.name: one for one in made}
        endpoints |= {one.cluster_name: one for one in assignments}
    layers = {
        **found.layers,
        pb.CLUSTER: found.layers[pb.CLUSTER].replaced(own),
        pb.ENDPOINTS: found.layers[pb.ENDPOINTS].replaced(endpoints),
    }
    return replace(found, layers=layers, needed=needed)


def _made(scope: Scope, resource: Sidecar | None, make: Make) -> Outbound:
    labels = _Asked(scope.proxy.labels)
    inner = Scope(scope.store, replace(scope.proxy, labels=labels))
    found = by_type(inner, *make(inner))
    layers = {url: Layer(resources) for url, resources in found.items()}
    return Outbound(layers, inner.needed, inner.report.diagnostics, labels.asked, resource)


def by_type(
    scope: Scope,
    listeners: Sequence[Any],
    tables: Sequence[Any],
    own: Sequence[Any],
    secrets: Mapping[str, Any] = MappingProxyType({}),
    but: Container[tuple[str, int]] = frozenset(),
) -> dict[str, Mapping[str, Any]]:
    """All of it by type and name, with the clusters that it needs, ``but`` those of these services' ports."""
    found = [*own, *scope.key_servers.values()]
    endpoints: list[Any] = []
    held = dict(secrets)
    for key, (service, port) in scope.needed.items():
        if key in but:
            continue
        made, assignments = clusters.outbound(scope.store, scope.proxy, service, port)
        found += made
        endpoints += assignments
        held |= origination.secrets(scope, service, port)
    if scope.proxy.mark is not None:
        for cluster in found:
            clusters.mark(cluster, scope.proxy.mark)
    return {
        pb.LISTENER: {one.name: one for one in listeners},
        pb.ROUTES: {one.name: one for one in tables},
        pb.CLUSTER: {one.name: one for one in found},
        pb.ENDPOINTS: {one.cluster_name: one for one in endpoints},
        pb.SECRET: held,
    }


class _Asked(Mapping[str, str]):
    """Labels that note which of them somebody asked for."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels
        self.asked: dict[str, str | None] = {}

    def __getitem__(self, name: str) -> str:
        self.asked[name] = self._labels.get(name)
        return self._labels[name]

    def __iter__(self) -> Iterator[str]:
        raise TypeError("who looks at all labels can have nothing in common with others")

    def __len__(self) -> int:
        raise TypeError("how many labels there are is nobody's business")

    def __bool__(self) -> bool:
        raise TypeError("whether there are labels is nobody's business")

    def items(self) -> ItemsView[str, str]:
        return _Items(self)


class _Items(ItemsView[str, str]):
    """For ``selector.items() <= labels.items()``: each label of the selector is asked for."""

    def __len__(self) -> int:
        return 1 << 30
