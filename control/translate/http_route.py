"""The Gateway API's HTTPRoute rules as Envoy routes, in the precedence that the standard sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from pymesh.control.resources.gateway_api import (
    BackendRef,
    HeaderModifier,
    HTTPRoute,
    NamedMatch,
    PathModifier,
    RequestRedirect,
    RouteFilter,
    RouteMatch,
    RouteRule,
    mirrors,
)
from pymesh.control.store.parents import Route
from pymesh.control.translate import backends, http_filters, routes, sticky
from pymesh.control.translate.retries import RetryRule, by_method
from pymesh.control.translate.routes import Place
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.wire import wrapped
from pymesh.control.xds import pb

_PATH_RANK = {"Exact": 2, "RegularExpression": 1, "PathPrefix": 0}


def http_routes(scope: Scope, bound: Iterable[HTTPRoute], place: Place, host: str = "*") -> list[Any]:
    """The routes of all HTTPRoutes that are bound to one host, most specific match first."""
    found = []
    for route in bound:
        for number, rule in enumerate(route.spec.rules):
            for match in rule.matches:
                name = rule.name or f"{route.name}.{number}"
                made = _routes(scope, route, rule, match, name, place, host)
                found.append((_precedence(match), made))
    # Stable: among equals the order of the routes' names, then of the rules, stands.
    found.sort(key=lambda pair: pair[0], reverse=True)
    return [one for _, made in found for one in made]


def _precedence(match: RouteMatch) -> tuple[int, int, bool, int, int]:
    path = match.path
    return (
        _PATH_RANK[path.type],
        len(_prefix(path.value) if path.type == "PathPrefix" else path.value),
        match.method is not None,
        len(match.telling_headers),
        len(match.telling_params),
    )


def _routes(
    scope: Scope, route: HTTPRoute, rule: RouteRule, match: RouteMatch, name: str, place: Place, host: str
) -> list[Any]:
    """One route for a match; for some redirects two."""
    made = pb.Route(name=name, match=_match(match))
    filters = {one.type: one for one in rule.filters}
    redirect = filters.get("RequestRedirect")
    if redirect is not None and redirect.request_redirect is not None:
        set_headers(made, rule.filters)
        return _redirects(made, redirect.request_redirect, match, place, host)
    _forward(scope, made, route, rule)
    rewrite = filters.get("URLRewrite")
    if rewrite is not None and rewrite.url_rewrite is not None and made.HasField("route"):
        change = rewrite.url_rewrite
        if change.hostname:
            made.route.host_rewrite_literal = change.hostname
        if change.path is not None:
            _rewrite_path(made.route, change.path, match)
    set_headers(made, rule.filters)
    cors = filters.get("CORS")
    http_filters.say(made, cors=cors.cors if cors is not None else None)
    retries = RetryRule.of_gateway_api(rule.retry, rule.timeouts.backend_request)
    return by_method([made], retries, match.method is not None)


def _forward(scope: Scope, made: Any, route: HTTPRoute, rule: RouteRule) -> None:
    clusters = share_out(scope, made, route, rule.backend_refs, rule.timeouts.request)
    if not clusters:
        made.direct_response.status = 500  # as the standard asks where nothing can answer
        return
    if backends.UNRESOLVED in clusters:
        made.route.cluster_not_found_response_code = pb.RouteAction.INTERNAL_SERVER_ERROR  # by the standard, too
    if rule.session_persistence is not None:
        sticky.by_session(made.route, rule.session_persistence)
    else:
        sticky.by_destination(scope, made.route, clusters)
    mirror(scope, made, route, rule.filters)


def share_out(
    scope: Scope, made: Any, route: Route, written: Sequence[BackendRef], limit: timedelta | None = None
) -> list[str]:
    """Send what a route takes to its backends by their weights; the clusters, none if nobody can answer."""
    shares = [(backends.cluster(scope, route, one), one) for one in written if one.weight]
    if not shares:
        return []
    choice: dict[str, Any]
    if len(shares) == 1 and not shares[0][1].filters:
        choice = {"cluster": shares[0][0]}
    else:
        weighted = pb.message("envoy.config.route.v3.WeightedCluster")()
        for cluster, backend in shares:
            entry = weighted.clusters.add(name=cluster, weight=wrapped(backend.weight))
            set_headers(entry, backend.filters)
        choice = {"weighted_clusters": weighted}
    made.route.CopyFrom(pb.message("envoy.config.route.v3.RouteAction")(**routes.forward(scope, choice, limit)))
    return [cluster for cluster, _ in shares]


def mirror(scope: Scope, made: Any, route: Route, filters: tuple[RouteFilter, ...]) -> None:
    """Copies of what a rule sends on."""
    for copy in mirrors(filters):
        routes.mirror(made.route, backends.cluster(scope, route, copy.backend_ref), copy.millionths)


def _match(match: RouteMatch) -> dict[str, Any]:
    path = match.path
    made: dict[str, Any]
    if path.type == "Exact":
        made = {"path": path.value}
    elif path.type == "RegularExpression":
        made = {"safe_regex": {"regex": path.value}}
    elif _prefix(path.value):
        made = {"path_separated_prefix": _prefix(path.value)}
    else:
        made = {"prefix": "/"}
    method: list[dict[str, Any]] = (
        [{"name": ":method", "string_match": {"exact": match.method}}] if match.method else []
    )
    made["headers"] = method + [named(one) for one in match.telling_headers]
    made["query_parameters"] = [named(one) for one in match.telling_params]
    return made


def _prefix(value: str) -> str:
    """A path prefix without the slash at its end: the standard matches whole elements."""
    return value.rstrip("/")


def named(match: NamedMatch) -> dict[str, Any]:
    """A header or query parameter, as Envoy matches it."""
    if match.type == "Exact":
        return {"name": match.name, "string_match": {"exact": match.value}}
    return {"name": match.name, "string_match": {"safe_regex": {"regex": match.value}}}


def _redirects(made: Any, redirect: RequestRedirect, match: RouteMatch, place: Place, host: str) -> list[Any]:
    """A redirect goes to the port that it names, else to its scheme's, else to the listener's.

    The port that a scheme has anyway is not written. Envoy keeps the port of the request's host where none is set, so
    there must be none to keep: the host is written too, or (under a pattern) requests with a port get their own route.
    """
    action = pb.RedirectAction(response_code=routes.redirect_code(redirect.status_code))
    scheme = redirect.scheme or ("https" if place.tls else "http")
    if redirect.scheme:
        action.scheme_redirect = redirect.scheme
    if redirect.path is not None:
        if redirect.path.replace_full_path is not None:
            action.path_redirect = redirect.path.replace_full_path
        else:
            _rewrite_path(action, redirect.path, match)
    port = redirect.port or (routes.DEFAULT_PORTS[scheme] if redirect.scheme else place.port)
    if redirect.hostname:
        action.host_redirect = redirect.hostname
    if port != routes.DEFAULT_PORTS[scheme]:
        action.port_redirect = port
    elif not redirect.hostname and "*" not in host:
        action.host_redirect = host
    made.redirect.CopyFrom(action)
    if action.port_redirect or action.host_redirect:
        return [made]
    ported = pb.Route()
    ported.CopyFrom(made)
    ported.match.headers.add(name=":authority", string_match={"safe_regex": {"regex": ".*:[0-9]+"}})
    ported.redirect.port_redirect = port
    return [ported, made]


def _rewrite_path(action: Any, change: PathModifier, match: RouteMatch) -> None:
    """Set ``prefix_rewrite`` or ``regex_rewrite`` of a route or redirect action."""
    if change.replace_full_path is not None:
        _replace(action, "^/.*$", change.replace_full_path)
        return
    prefix, replacement = _prefix(match.path.value), _prefix(change.replace_prefix_match or "")
    if not prefix:
        action.prefix_rewrite = f"{replacement}/"
    elif replacement:
        action.prefix_rewrite = replacement
    else:
        # A bare prefix rewrite would make "//rest" of "/prefix/rest".
        _replace(action, f"^{re.escape(prefix)}/*", "/")


def _replace(action: Any, pattern: str, text: str) -> None:
    action.regex_rewrite.pattern.regex = pattern
    action.regex_rewrite.substitution = text.replace("\\", "\\\\")


def set_headers(owner: Any, filters: Iterable[RouteFilter]) -> None:
    """The header changes of filters, on a route or on one of its shares."""
    for one in filters:
        for modifier, add, remove in (
            (one.request_header_modifier, owner.request_headers_to_add, owner.request_headers_to_remove),
            (one.response_header_modifier, owner.response_headers_to_add, owner.response_headers_to_remove),
        ):
            if modifier is not None:
                _apply(modifier, add, remove)


def _apply(modifier: HeaderModifier, add: Any, remove: Any) -> None:
    put = {one.name: one.value for one in modifier.set}
    appended = {one.name: one.value for one in modifier.add}
    add.extend(pb.HeaderValueOption(**one) for one in routes.header_options(put, appended))
    remove.extend(modifier.remove)
