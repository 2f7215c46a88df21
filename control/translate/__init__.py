"""From the store to one proxy's xDS resources: pure functions, one file for each concern."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from pymesh.control.resources.diagnostics import Diagnostic
from pymesh.control.resources.workloads import EgressListener, Sidecar
from pymesh.control.store.store import Store
from pymesh.control.translate import captured, gateway, own_part, sidecar
from pymesh.control.translate.common import Outbound, by_type, refreshed
from pymesh.control.translate.own_part import Own
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.scope import Scope
from pymesh.control.xds.layers import Layer, Layered

__all__ = ["Translation", "translate"]


@dataclass(frozen=True, slots=True)
class Translation:
    """What a proxy should have, and what its owner should know."""

    #: Type URL -> name -> message.
    messages: Mapping[str, Mapping[str, Any]]
    warnings: tuple[Diagnostic, ...]
    #: Parts that are found again, for this proxy and those like it, for as long as somebody holds them.
    parts: tuple[object, ...]
    #: Of a captured sidecar: what it shares, what it has alone, and what of its store they were kept with.
    captured: tuple[Outbound, Own, object] | None = None


def translate(store: Store, proxy: Proxy, before: Translation | None = None) -> Translation:
    """Everything for one proxy. The same store and proxy always give equal messages; ``before``, what was made for it
    last, makes it quick.
    """
    if before is not None and before.captured is not None:
        again = _refreshed(store, proxy, before, *before.captured)
        if again is not None:
            return again
    scope = Scope(store, proxy)
    if proxy.kind == "router":
        listeners, tables, secrets = gateway.build(scope)
        return _whole(scope, _Part(listeners, tables, [], secrets))
    resource = store.sidecar(proxy.namespace, proxy.labels)
    if not proxy.is_captured:
        return _whole(scope, _explicit(scope, resource))
    common = captured.outbound(scope, resource)
    own = own_part.of(scope, lambda inner: _messages(inner, _captured(inner, resource), common.needed))
    layered = {url: Layered(common.layers[url], layer) for url, layer in own.layers.items()}
    return Translation(layered, scope.report.diagnostics, (common, own), (common, own, store.memo))


def _refreshed(
    store: Store, proxy: Proxy, before: Translation, common: Outbound, own: Own, memo: object
) -> Translation | None:
    """The same of a store in which nothing but endpoints has changed; None: more has."""
    hosts = next((hosts for kept, hosts in store.memos() if kept is memo), None)
    if hosts is None or not own.holds(proxy, hosts):
        return None
    now = refreshed(common, store, proxy, hosts)
    messages = {
        url: named if now.layers[url] is common.layers[url] else Layered(now.layers[url], own.layers[url])
        for url, named in before.messages.items()
    }
    return Translation(messages, before.warnings, (now, own), (now, own, store.memo))


@dataclass(frozen=True, slots=True)
class _Part:
    """What a proxy is given, without the clusters that it needs for it."""

    listeners: list[Any]
    tables: list[Any]
    clusters: list[Any]
    secrets: dict[str, Any] = field(default_factory=dict)


def _whole(scope: Scope, part: _Part) -> Translation:
    """Of one part, in which no other proxy has a share but in its clusters."""
    messages = _messages(scope, part)
    return Translation(messages, scope.report.diagnostics, tuple(scope.clusters.values()))


def _explicit(scope: Scope, resource: Sidecar | None) -> _Part:
    """A sidecar that listens where its resource says."""
    part = _Part([], [], [])
    for ingress in resource.spec.ingress if resource else ():
        listener, cluster = sidecar.inbound(scope, ingress)
        part.listeners.append(listener)
        part.clusters.append(cluster)
    policy = resource.spec.outbound_traffic_policy if resource else None
    if policy is not None and policy.mode == "ALLOW_ANY":
        scope.report.warning(
            policy.place("mode"),
            f"{scope.proxy.name}.{scope.proxy.namespace} captures nothing that could be let through",
            "set INTERCEPTION_MODE in the node's metadata",
        )
    for egress in resource.spec.egress if resource else ():
        _egress(scope, egress, part)
    return part


def _captured(scope: Scope, resource: Sidecar | None) -> _Part:
    """What a captured sidecar has alone: the way in, and where it listens on ports of its own."""
    virtual = captured.inbound(scope, resource)
    part = _Part(virtual.listeners, virtual.tables, virtual.clusters)
    for egress in resource.spec.egress if resource else ():
        if sidecar.is_explicit(scope, egress):  # what others name is among the captured services
            _egress(scope, egress, part)
    return part


def _egress(scope: Scope, egress: EgressListener, part: _Part) -> None:
    listener, table = sidecar.outbound(scope, egress)
    part.listeners.extend([listener] if listener is not None else [])
    part.tables.extend([table] if table is not None else [])


def _messages(scope: Scope, part: _Part, but: Container[tuple[str, int]] = frozenset()) -> dict[str, Layer]:
    """A part with the clusters that it needs, ``but`` those of these services' ports."""
    return by_type(scope, part.listeners, part.tables, part.clusters, part.secrets, but)
