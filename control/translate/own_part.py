"""What a captured sidecar has for itself: made again only if something that it is made of has changed, and there for as
long as somebody holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from pymesh.control.resources.diagnostics import Diagnostic
from pymesh.control.store.store import Store
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.scope import Scope
from pymesh.control.xds.layers import Layer


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Own:
    """The messages, and what they depend on."""

    proxy: Proxy
    layers: Mapping[str, Layer]
    warnings: tuple[Diagnostic, ...]
    #: The services whose endpoints it depends on: those that it serves, and those that it needs for that.
    hosts: frozenset[str]
    #: Servers of keys have endpoints as well, and their names do not tell whose.
    has_key_servers: bool
    #: Held for others that need the same.
    clusters: Mapping[tuple[str, int], Any]

    def holds(self, proxy: Proxy, changed: frozenset[str]) -> bool:
        """Whether it is this proxy's, although services of these hosts have other endpoints by now."""
        if changed and (self.has_key_servers or not changed.isdisjoint(self.hosts)):
            return False
        return self.proxy is proxy or self.proxy == proxy


def of(scope: Scope, make: Callable[[Scope], Mapping[str, Layer]]) -> Own:
    """A proxy's own messages, to be held by who wants to find them again; their warnings are reported."""
    proxy, store = scope.proxy, scope.store
    key = (proxy.namespace, proxy.name, proxy.address)
    found = _known(store, proxy, key)
    if found is None:
        inner = Scope(store, proxy)
        layers = make(inner)
        served = {host for host, one in store.services.items() if one.selects(proxy.namespace, proxy.labels)}
        hosts = frozenset(served | {host for host, _ in inner.needed})
        found = Own(proxy, layers, inner.report.diagnostics, hosts, bool(inner.key_servers), inner.clusters)
    _kept(store.memo)[key] = found
    scope.report.add(found.warnings)
    return found


def _known(store: Store, proxy: Proxy, key: tuple[str, str, str]) -> Own | None:
    for memo, changed in store.memos():
        found = _kept(memo).get(key)
        if found is not None and found.holds(proxy, changed):
            return found
    return None


def _kept(memo: dict[object, Any]) -> WeakValueDictionary[tuple[str, str, str], Own]:
    kept: WeakValueDictionary[tuple[str, str, str], Own] | None = memo.get("own")
    if kept is None:
        kept = memo["own"] = WeakValueDictionary()
    return kept
