"""Which policies are for a proxy's workload, or for what it serves. Those of the root namespace are for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pymesh.control.resources.request_authentication import RequestAuthentication
from pymesh.control.resources.security import AuthorizationPolicy, TargetRef
from pymesh.control.translate.scope import Scope

Policy = TypeVar("Policy", AuthorizationPolicy, RequestAuthentication)


def for_workload(scope: Scope, written: Sequence[Policy]) -> list[Policy]:
    """Those for requests and connections to the workload."""
    return _selected(scope, written, lambda target: target.kind == "Service" and scope.serves(target.name))


def for_gateway(scope: Scope, written: Sequence[Policy], name: str) -> list[Policy]:
    """Those for the listeners of the Gateway ``name``."""
    return _selected(scope, written, lambda target: target.kind == "Gateway" and target.name == name)


def _selected(scope: Scope, written: Sequence[Policy], targeted: Callable[[TargetRef], bool]) -> list[Policy]:
    proxy, root = scope.proxy, scope.store.options.root_namespace
    found = []
    for one in written:
        if one.namespace not in (proxy.namespace, root):
            continue
        selector = one.spec.selector
        if one.spec.target_refs:
            if one.namespace == proxy.namespace and any(map(targeted, one.spec.target_refs)):
                found.append(one)
        elif selector is None or selector.selects(proxy.labels):
            found.append(one)
    return found
