"""Who gets in: the filters of a listener that decide it, in Istio's order.

Whoever is asked outside of the proxy comes first, since a token may be of its making; then tokens are checked; then
the policies that may ask for what a token says.
"""

from __future__ import annotations

from typing import Any

from pymesh.control.translate import authorization, external_authorization, request_authentication
from pymesh.control.translate.scope import Scope


def inbound_http(scope: Scope) -> list[dict[str, Any]]:
    """The filters for requests to the workload."""
    return [
        *external_authorization.inbound_http(scope),
        *request_authentication.inbound(scope),
        *authorization.inbound_http(scope),
    ]


def inbound_tcp(scope: Scope, stat_prefix: str) -> list[dict[str, Any]]:
    """The filters for connections to the workload, which have no tokens."""
    return [*external_authorization.inbound_tcp(scope, stat_prefix), *authorization.inbound_tcp(scope, stat_prefix)]


def gateway_tcp(scope: Scope, name: str, stat_prefix: str) -> list[dict[str, Any]]:
    """The filters for connections to a gateway's listeners that are no HTTP there."""
    return [
        *external_authorization.gateway_tcp(scope, name, stat_prefix),
        *authorization.gateway_tcp(scope, name, stat_prefix),
    ]


def gateway(scope: Scope, name: str) -> list[dict[str, Any]]:
    """The filters for requests to a gateway's listeners, those of the Gateway ``name``."""
    return [
        *external_authorization.gateway(scope, name),
        *request_authentication.gateway(scope, name),
        *authorization.gateway(scope, name),
    ]
