"""What a sidecar has in common with others: everything on the way out of its workload, made once for all that are alike
(:mod:`pymesh.control.translate.asked`). The clusters of one service are alike for many more: each is made once for
those, and encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from pymesh.control.resources.diagnostics import Diagnostic
from pymesh.control.resources.workloads import Sidecar
from pymesh.control.store.services import Port, Service
from pymesh.control.store.store import Store
from pymesh.control.translate import clusters, origination
from pymesh.control.translate.asked import Alike, Asked, Question, questions
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.scope import Scope
from pymesh.control.xds import pb
from pymesh.control.xds.layers import Layer

#: Listeners, route tables and clusters of no service on the way out, for a scope that has not been used.
Make = Callable[[Scope], tuple[list[Any], list[Any], list[Any]]]


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class OfService:
    """The clusters of a port of a service, and the endpoints of those that discover them."""

    clusters: Layer
    endpoints: Layer


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Outbound:
    """All of the way out."""

    layers: Mapping[str, Layer]
    needed: Mapping[tuple[str, int], tuple[Service, Port]]
    warnings: tuple[Diagnostic, ...]
    #: Held, so that nothing else gets its identity.
    resource: Sidecar | None
    #: Held for others that need the same.
    services: Mapping[tuple[str, int], OfService]
    #: Who answers these alike has it in common.
    questions: Mapping[Question, None]


def outbound(scope: Scope, resource: Sidecar | None, make: Make) -> Outbound:
    """The way out of a workload; its warnings are reported."""
    store, proxy, key = scope.store, Asked.of(scope.proxy), ("outbound", id(resource))
    found = _known(store, proxy, key)
    if found is None:
        inner = Scope(store, proxy)
        layers = by_type(inner, *make(inner))
        told, held = inner.report.diagnostics, inner.clusters
        made = Outbound(layers, inner.needed, told, resource, held, questions(proxy))
        found = _kept(store, key).add(proxy, made)
    scope.report.add(found.warnings)
    return found


def _kept(store: Store, key: object) -> Alike[Outbound]:
    kept: Alike[Outbound] = store.memo.setdefault(key, Alike())
    return kept


def _known(store: Store, proxy: Proxy, key: object) -> Outbound | None:
    """What was made of this store, or of one before it and is refreshed."""
    for memo, hosts in store.memos():
        alike: Alike[Outbound] | None = memo.get(key)
        found = alike.find(proxy) if alike is not None else None
        if found is not None:
            return found if memo is store.memo else _kept(store, key).add(proxy, _refreshed(found, store, proxy, hosts))
    return None


def refreshed(found: Outbound, store: Store, proxy: Proxy, hosts: frozenset[str]) -> Outbound:
    """What a proxy had of a store before this one, with the endpoints that services of these hosts have now. Those that
    had it in common still have, as far as they answer alike what is asked for that alone.
    """
    after: WeakKeyDictionary[Outbound, Alike[Outbound]] | None = store.memo.get("after")
    if after is None:
        after = store.memo["after"] = WeakKeyDictionary()
    alike = after.get(found)
    if alike is None:
        alike = after[found] = Alike()
    now = alike.find(proxy)
    if now is None:
        asked = Asked.of(proxy)
        now = _refreshed(found, store, asked, hosts)
        more = tuple(one for one in questions(asked) if one not in found.questions)
        questions(asked).update(found.questions)
        # Here it is found by those who were not here before.
        now = _kept(store, ("outbound", id(found.resource))).add(asked, now)
        alike.put(proxy, more, now)
    return now


def _refreshed(found: Outbound, store: Store, proxy: Proxy, hosts: frozenset[str]) -> Outbound:
    """The same with the endpoints that services of these hosts have now."""
    moved = [key for key in found.needed if key[0] in hosts]
    if not moved:
        return found
    needed, services = dict(found.needed), dict(found.services)
    for host, number in moved:
        service, port = store.services[host], found.needed[host, number][1]
        needed[host, number] = (service, port)
        services[host, number] = _of_service(store, proxy, service, port)
    made = [services[key] for key in moved]
    layers = {
        **found.layers,
        pb.CLUSTER: found.layers[pb.CLUSTER].replaced([one.clusters for one in made]),
        pb.ENDPOINTS: found.layers[pb.ENDPOINTS].replaced([one.endpoints for one in made]),
    }
    asked = {**found.questions, **questions(proxy)}
    return replace(found, layers=layers, needed=needed, services=services, questions=asked)


def _of_service(store: Store, proxy: Proxy, service: Service, port: Port) -> OfService:
    rule = store.destination_rule(service, proxy.namespace)
    of_host = store.made_of.setdefault(service.host, {})
    alike: Alike[OfService] = of_host.setdefault((port.number, id(rule)), Alike())
    found = alike.find(proxy)
    if found is not None:
        return found
    asked = Asked.again(proxy)
    made, assignments = clusters.outbound(store, asked, service, port, rule)
    _mark(asked, made)
    named = Layer((one.name, one) for one in made), Layer((one.cluster_name, one) for one in assignments)
    fresh = alike.add(asked, OfService(*named))
    return alike.find(proxy) or fresh  # which notes what was asked


def _mark(proxy: Proxy, made: Sequence[Any]) -> None:
    if proxy.mark is not None:
        for cluster in made:
            clusters.mark(cluster, proxy.mark)


def by_type(
    scope: Scope,
    listeners: Sequence[Any],
    tables: Sequence[Any],
    own: Sequence[Any],
    secrets: Mapping[str, Any] = MappingProxyType({}),
    but: Container[tuple[str, int]] = frozenset(),
) -> dict[str, Layer]:
    """All of it by type and name, with the clusters that it needs, ``but`` those of these services' ports."""
    held = Layer(secrets)
    for key, (service, port) in scope.needed.items():
        if key not in but:
            scope.clusters[key] = _of_service(scope.store, scope.proxy, service, port)
            held.update(origination.secrets(scope, service, port))
    of_none = [*own, *scope.key_servers.values()]
    _mark(scope.proxy, of_none)
    first = Layer((one.name, one) for one in of_none)
    of_services = scope.clusters.values()
    return {
        pb.LISTENER: Layer((one.name, one) for one in listeners),
        pb.ROUTES: Layer((one.name, one) for one in tables),
        pb.CLUSTER: Layer.joined([first, *(one.clusters for one in of_services)]),
        pb.ENDPOINTS: Layer.joined([one.endpoints for one in of_services]),
        pb.SECRET: held,
    }
