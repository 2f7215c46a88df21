"""Which policies are for a proxy's workload, or for what it serves. Those of the root namespace are for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from pymesh.control.resources.request_authentication import RequestAuthentication
from pymesh.control.resources.security import AuthorizationPolicy, TargetRef
from pymesh.control.translate.scope import Scope

Policy = TypeVar("Policy", AuthorizationPolicy, RequestAuthentication)


class Select(Protocol):
    """Picks those that are meant."""

    def __call__(self, written: Sequence[Policy], /) -> list[Policy]:
        """Of one kind of policies."""


def for_workload(scope: Scope) -> Select:
    """Those for requests and connections to the workload."""
    return _selecting(scope, lambda target: target.kind == "Service" and scope.serves(target.name))


def for_gateway(scope: Scope, name: str) -> Select:
    """Those for the listeners of the Gateway ``name``."""
    return _selecting(scope, lambda target: target.kind == "Gateway" and target.name == name)


def _selecting(scope: Scope, targeted: Callable[[TargetRef], bool]) -> Select:
    proxy, root = scope.proxy, scope.store.options.root_namespace

    def select(written: Sequence[Policy], /) -> list[Policy]:
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

    return select
