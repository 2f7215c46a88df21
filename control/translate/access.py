"""Who gets in: the filters of a listener that decide it, in Istio's order.

Whoever is asked outside of the proxy comes first, since a token may be of its making; then tokens are checked; then
the policies that may ask for what a token says.

The listeners of a workload, or of one Gateway, may be many: they share one list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymesh.control.translate import authorization, external_authorization, request_authentication, selection
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.selection import Select

Filters = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class HttpGuards:
    """The filters for requests; others may stand between the two parts."""

    #: Who the request is from: those who are asked outside, each behind what says whether it is, and tokens.
    identity: Filters
    #: What it may do.
    policies: Filters


def inbound_http(scope: Scope) -> HttpGuards:
    """The filters for requests to the workload."""
    return HttpGuards(_once(scope, _identity, None), _once(scope, _policies, None))


def inbound_tcp(scope: Scope) -> Filters:
    """The filters for connections to the workload."""
    return _once(scope, _tcp, None)


def gateway_http(scope: Scope, name: str) -> HttpGuards:
    """The filters for requests to a gateway's listeners, those of the Gateway ``name``."""
    return HttpGuards(_once(scope, _identity, name), _once(scope, _policies, name))


def gateway_tcp(scope: Scope, name: str) -> Filters:
    """The filters for connections to a gateway's listeners that are no HTTP there."""
    return _once(scope, _tcp, name)


def _once(scope: Scope, make: Callable[[Scope, Select], Filters], gateway: str | None) -> Filters:
    key = (make, gateway)
    if key not in scope.guards:
        select = selection.for_workload(scope) if gateway is None else selection.for_gateway(scope, gateway)
        scope.guards[key] = make(scope, select)
    return scope.guards[key]


def _identity(scope: Scope, select: Select) -> Filters:
    return [
        *external_authorization.http(scope, select(scope.store.policies)),
        *request_authentication.http(scope, select(scope.store.request_authentications)),
    ]


def _policies(scope: Scope, select: Select) -> Filters:
    return authorization.http(select(scope.store.policies))


def _tcp(scope: Scope, select: Select) -> Filters:
    """Connections have no tokens."""
    policies = select(scope.store.policies)
    return [*external_authorization.tcp(scope, policies), *authorization.tcp(policies)]
