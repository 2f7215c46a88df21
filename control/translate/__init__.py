"""From the store to one proxy's xDS resources: pure functions, one file for each concern."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymesh.control.resources.diagnostics import Diagnostic
from pymesh.control.store.store import Store
from pymesh.control.translate import captured, clusters, gateway, origination, sidecar
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.scope import Scope
from pymesh.control.xds import pb

__all__ = ["Translation", "translate"]


@dataclass(frozen=True, slots=True)
class Translation:
    """What a proxy should have, and what its owner should know."""

    #: Type URL -> name -> message.
    messages: dict[str, dict[str, Any]]
    warnings: tuple[Diagnostic, ...]


def translate(store: Store, proxy: Proxy) -> Translation:
    """Everything for one proxy. The same store and proxy always give equal messages."""
    scope = Scope(store, proxy)
    listeners: list[Any] = []
    tables: list[Any] = []
    own: list[Any] = []
    secrets: dict[str, Any] = {}
    if proxy.kind == "router":
        listeners, tables, secrets = gateway.build(scope)
    else:
        resource = store.sidecar(proxy.namespace, proxy.labels)
        if not proxy.is_captured:
            for ingress in resource.spec.ingress if resource else ():
                listener, cluster = sidecar.inbound(scope, ingress)
                listeners.append(listener)
                own.append(cluster)
            policy = resource.spec.outbound_traffic_policy if resource else None
            if policy is not None and policy.mode == "ALLOW_ANY":
                scope.report.warning(
                    policy.place("mode"),
                    f"{proxy.name}.{proxy.namespace} captures nothing that could be let through",
                    "set INTERCEPTION_MODE in the node's metadata",
                )
        else:
            virtual = captured.build(scope, resource)
            listeners, tables, own = virtual.listeners, virtual.tables, virtual.clusters
        for egress in resource.spec.egress if resource else ():
            if proxy.is_captured and not sidecar.is_explicit(scope, egress):
                continue  # what it names is among the captured services
            listener, table = sidecar.outbound(scope, egress)
            listeners += [listener] if listener is not None else []
            tables += [table] if table is not None else []
    own += scope.key_servers.values()
    endpoints: list[Any] = []
    for service, port in scope.needed.values():
        made, assignments = clusters.outbound(store, proxy, service, port)
        own += made
        endpoints += assignments
        secrets |= origination.secrets(scope, service, port)
    if proxy.mark is not None:
        for cluster in own:
            clusters.mark(cluster, proxy.mark)
    messages = {
        pb.LISTENER: {one.name: one for one in listeners},
        pb.ROUTES: {one.name: one for one in tables},
        pb.CLUSTER: {one.name: one for one in own},
        pb.ENDPOINTS: {one.cluster_name: one for one in endpoints},
        pb.SECRET: secrets,
    }
    return Translation(messages, scope.report.diagnostics)
