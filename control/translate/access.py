"""Who gets in: the filters of a listener that decide it, in Istio's order.

Whoever is asked outside of the proxy comes first, since a token may be of its making; then tokens are checked; then
the policies that may ask for what a token says.
"""

from __future__ import annotations

from typing import Any

from pymesh.control.translate import authorization, external_authorization, request_authentication, selection
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.selection import Select


def inbound_http(scope: Scope) -> list[dict[str, Any]]:
    """The filters for requests to the workload."""
    return _http(scope, selection.for_workload(scope))


def inbound_tcp(scope: Scope) -> list[dict[str, Any]]:
    """The filters for connections to the workload."""
    return _tcp(scope, selection.for_workload(scope))


def gateway_http(scope: Scope, name: str) -> list[dict[str, Any]]:
    """The filters for requests to a gateway's listeners, those of the Gateway ``name``."""
    return _http(scope, selection.for_gateway(scope, name))


def gateway_tcp(scope: Scope, name: str) -> list[dict[str, Any]]:
    """The filters for connections to a gateway's listeners that are no HTTP there."""
    return _tcp(scope, selection.for_gateway(scope, name))


def _http(scope: Scope, select: Select) -> list[dict[str, Any]]:
    policies = select(scope.store.policies)
    return [
        *external_authorization.http(scope, policies),
        *request_authentication.http(scope, select(scope.store.request_authentications)),
        *authorization.http(policies),
    ]


def _tcp(scope: Scope, select: Select) -> list[dict[str, Any]]:
    """Connections have no tokens."""
    policies = select(scope.store.policies)
    return [*external_authorization.tcp(scope, policies), *authorization.tcp(policies)]
