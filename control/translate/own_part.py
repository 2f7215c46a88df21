"""What a captured sidecar has for itself, kept for as long as nothing that it is made of has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pymesh.control.resources.diagnostics import Diagnostic
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.scope import Scope
from pymesh.control.xds.layers import Layer


@dataclass(frozen=True, slots=True)
class _Own:
    proxy: Proxy
    layers: Mapping[str, Layer]
    warnings: tuple[Diagnostic, ...]
    #: The services whose endpoints it depends on: those that it serves, and those that it needs for that.
    hosts: frozenset[str]
    #: Servers of keys have endpoints as well, and their names do not tell whose.
    has_key_servers: bool

    def holds(self, proxy: Proxy, changed: frozenset[str]) -> bool:
        """Whether it is this proxy's, although services of these hosts have other endpoints by now."""
        if changed and (self.has_key_servers or not changed.isdisjoint(self.hosts)):
            return False
        return self.proxy == proxy


def of(scope: Scope, make: Callable[[Scope], Mapping[str, Layer]]) -> Mapping[str, Layer]:
    """A proxy's own messages; their warnings are reported."""
    proxy, store = scope.proxy, scope.store
    key = ("own", proxy.namespace, proxy.name, proxy.address)
    found = next(
        (memo[key] for memo, changed in store.memos() if key in memo and memo[key].holds(proxy, changed)), None
    )
    if found is None:
        inner = Scope(store, proxy)
        layers = make(inner)
        served = {host for host, one in store.services.items() if one.selects(proxy.namespace, proxy.labels)}
        hosts = frozenset(served | {host for host, _ in inner.needed})
        found = _Own(proxy, layers, inner.report.diagnostics, hosts, bool(inner.key_servers))
    store.memo[key] = found
    scope.report.add(found.warnings)
    layers_found: Mapping[str, Layer] = found.layers
    return layers_found
