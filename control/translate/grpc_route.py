"""The Gateway API's GRPCRoute rules as Envoy routes, in the precedence that the standard sets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pymesh.control.resources.gateway_routes import GrpcMatch, GRPCRoute, GrpcRule
from pymesh.control.translate import sticky
from pymesh.control.translate.http_route import mirror, named, set_headers, share_out
from pymesh.control.translate.scope import Scope
from pymesh.control.xds import pb

#: One element of a path.
_ANY = "[^/]+"


def grpc_routes(scope: Scope, bound: Iterable[GRPCRoute]) -> list[Any]:
    """The routes of all GRPCRoutes that are bound to one host, most specific match first."""
    found = []
    for route in bound:
        for number, rule in enumerate(route.spec.rules):
            for match in rule.matches:
                made = pb.Route(name=rule.name or f"{route.name}.{number}", match=_match(match))
                set_headers(made, rule.filters)
                _forward(scope, made, route, rule)
                found.append((_precedence(match), made))
    # Stable: among equals the order of the routes' names, then of the rules, stands.
    found.sort(key=lambda pair: pair[0], reverse=True)
    return [made for _, made in found]


def _precedence(match: GrpcMatch) -> tuple[bool, int, int, int]:
    method = match.method
    is_exact = method is not None and method.type == "Exact"
    service, name = (len(method.service), len(method.method)) if method else (0, 0)
    return is_exact, service, name, len(match.telling_headers)


def _forward(scope: Scope, made: Any, route: GRPCRoute, rule: GrpcRule) -> None:
    clusters = share_out(scope, made, route, rule.backend_refs)
    if not clusters:
        made.direct_response.status = 503  # told as UNAVAILABLE, as the standard asks where nothing can answer
        return
    sticky.by_destination(scope, made.route, clusters)
    mirror(scope, made, route, rule.filters)


def _match(match: GrpcMatch) -> dict[str, Any]:
    return {**_path(match), "headers": [named(one) for one in match.telling_headers], "grpc": {}}


def _path(match: GrpcMatch) -> dict[str, Any]:
    method = match.method
    if method is None:
        return {"prefix": "/"}
    service, name = method.service.removeprefix("."), method.method
    if method.type == "RegularExpression":
        service, name = (f"(?:{one})" if one else _ANY for one in (method.service, method.method))
        return {"safe_regex": {"regex": f"/{service}/{name}"}}
    if service and name:
        return {"path": f"/{service}/{name}"}
    if service:
        return {"prefix": f"/{service}/"}
    return {"safe_regex": {"regex": f"/{_ANY}/{re.escape(name)}"}}
