"""From the store to one proxy's xDS resources: pure functions, one file for each concern."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from pymesh.control.resources.diagnostics import Diagnostic
from pymesh.control.resources.workloads import EgressListener, Sidecar
from pymesh.control.store.store import Store
from pymesh.control.translate import captured, gateway, own_part, sidecar
from pymesh.control.translate.common import by_type
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


def translate(store: Store, proxy: Proxy) -> Translation:
    """Everything for one proxy. The same store and proxy always give equal messages."""
    scope = Scope(store, proxy)
    if proxy.kind == "router":
        listeners, tables, secrets = gateway.build(scope)
        return Translation(_messages(scope, _Part(listeners, tables, [], secrets)), scope.report.diagnostics)
    resource = store.sidecar(proxy.namespace, proxy.labels)
    if not proxy.is_captured:
        return Translation(_messages(scope, _explicit(scope, resource)), scope.report.diagnostics)
    common = captured.outbound(scope, resource)
    own = own_part.of(scope, lambda inner: _messages(inner, _captured(inner, resource), common.needed))
    layered = {url: Layered(common.layers[url], layer) for url, layer in own.items()}
    return Translation(layered, scope.report.diagnostics)


@dataclass(frozen=True, slots=True)
class _Part:
    """What a proxy is given, without the clusters that it needs for it."""

    listeners: list[Any]
    tables: list[Any]
    clusters: list[Any]
    secrets: dict[str, Any] = field(default_factory=dict)


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
