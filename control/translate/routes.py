"""Istio's VirtualService rules as Envoy routes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pymesh.control.resources.traffic import (
    PREFIX_MARK,
    HeaderMatch,
    HeaderOperations,
    HttpMatch,
    HttpRoute,
    L4Match,
    Redirect,
    Rewrite,
    StringMatch,
    VirtualService,
    claim_of,
    is_authority,
)
from pymesh.control.store.references import gateway_key
from pymesh.control.translate import claims, http_filters, sticky
from pymesh.control.translate.retries import RetryRule, by_method
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.wire import seconds, wrapped
from pymesh.control.xds import pb

#: Envoy's limit for the body of a direct response, where the table says nothing else.
_DIRECT_BODY = 4096
DEFAULT_PORTS = {"http": 80, "https": 443}
#: How long a request through a gateway may be silent: as long as a connection that carries none. Clients out there go
#: without a word, and are not to be kept for ever.
_SILENCE = timedelta(hours=1)
_REDIRECTS = {
    301: "MOVED_PERMANENTLY", 302: "FOUND", 303: "SEE_OTHER", 307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where rules are applied: at which gateway ("" for sidecars), and for requests to which port."""

    gateway: tuple[str, str] | None
    port: int
    #: The service port that a destination without a port means.
    default_port: int | None
    #: Clients speak TLS with the proxy here.
    tls: bool = False


def virtual_service(scope: Scope, virtual: VirtualService, place: Place) -> list[Any]:
    """The routes of a VirtualService, in its order: the first that matches decides."""
    found = []
    for number, rule in enumerate(virtual.spec.http):
        name = rule.name or f"{virtual.name}.{number}"
        for match in rule.match or (HttpMatch(),):
            if applies(scope, match, virtual.namespace, place):
                made = _route(scope, rule, match, name, virtual.namespace, place)
                found += by_method([made], RetryRule.of_istio(rule.retries), match.method is not None)
    return found


def applies_at(names: Sequence[str], namespace: str, place: Place) -> bool:
    """Whether a list of gateways names the place."""
    if place.gateway is None:
        return "mesh" in names
    return any(name != "mesh" and gateway_key(name, namespace) == place.gateway for name in names)


def default_route(scope: Scope, cluster: str) -> Any:
    """The route to a service for which there are no rules."""
    made = pb.Route(name="default", match={"prefix": "/"}, route=forward(scope, {"cluster": cluster}))
    sticky.by_destination(scope, made.route, [cluster])
    return made


def forward(scope: Scope, choice: Mapping[str, Any], limit: timedelta | None = None) -> dict[str, Any]:
    """A route action with a time limit or without, and the retries of a route that says nothing of them."""
    return {**choice, **within(scope, limit), "retry_policy": RetryRule().policy()}


def within(scope: Scope, limit: timedelta | None) -> dict[str, Any]:
    """The time that a request may take, for gRPC at most, where the client says how long it will wait; and be silent
    for: who waits for news (WebSocket, gRPC, long polls) or for an answer that takes its time is not cut.
    """
    time = seconds(limit or timedelta())
    silence = max(limit or _SILENCE, _SILENCE) if scope.proxy.kind == "router" else timedelta()
    return {"timeout": time, "max_grpc_timeout": time, "idle_timeout": seconds(silence)}


def redirect_code(status: int) -> str:
    """Envoy's name of a redirect's status."""
    return _REDIRECTS[status]


def header_options(put: Mapping[str, str], add: Mapping[str, str], escape: bool = True) -> Iterator[dict[str, Any]]:
    """Headers to set and to append. A percent sign is meant as itself."""
    for values, action in ((put, "OVERWRITE_IF_EXISTS_OR_ADD"), (add, "APPEND_IF_EXISTS_OR_ADD")):
        for name, value in values.items():
            text = value.replace("%", "%%") if escape else value
            yield {"header": {"key": name, "value": text}, "append_action": action}


def applies(scope: Scope, match: HttpMatch | L4Match, namespace: str, place: Place) -> bool:
    """Whether a match is for this proxy and place; ``namespace`` is that of the VirtualService."""
    if match.gateways and not applies_at(match.gateways, namespace, place):
        return False
    if match.port is not None and match.port != place.port:
        return False
    if match.source_namespace not in ("", scope.proxy.namespace):
        return False
    return match.source_labels.items() <= scope.proxy.labels.items()


def sorted_catch_all_last(found: Sequence[Any]) -> list[Any]:
    """Routes of several resources for one host: one that takes everything must not hide those of the next."""
    return sorted(found, key=_takes_everything)


def allow_bodies(table: Any) -> Any:
    """The table, with room for the largest body of its direct responses if that is beyond what Envoy takes."""
    found = [route.direct_response.body for host in table.virtual_hosts for route in host.routes]
    largest = max((len(body.inline_string.encode()) + len(body.inline_bytes) for body in found), default=0)
    if largest > _DIRECT_BODY:
        table.max_direct_response_body_size_bytes.value = largest
    return table


def _takes_everything(route: Any) -> bool:
    match = route.match
    return bool(match.prefix == "/" and not match.headers and not match.query_parameters and not match.dynamic_metadata)


def _route(scope: Scope, rule: HttpRoute, match: HttpMatch, name: str, namespace: str, place: Place) -> Any:
    route = pb.Route(name=name, match=_match(match))
    if rule.redirect is not None:
        route.redirect.CopyFrom(_redirect(rule.redirect, place))
    elif rule.direct_response is not None:
        direct = rule.direct_response
        route.direct_response.status = direct.status
        if direct.body is not None and direct.body.string:
            route.direct_response.body.inline_string = direct.body.string
        elif direct.body is not None and direct.body.content:
            route.direct_response.body.inline_bytes = direct.body.content
    else:
        _forward(scope, route, rule, namespace, place)
    _set_headers(route, rule.headers.request, rule.headers.response)
    http_filters.say(route, rule.fault, rule.cors_policy)
    return route


def _redirect(redirect: Redirect, place: Place) -> Any:
    made = pb.RedirectAction(response_code=redirect_code(redirect.redirect_code))
    if redirect.uri is not None and redirect.uri.startswith(PREFIX_MARK):
        made.prefix_rewrite = redirect.uri.removeprefix(PREFIX_MARK)
    elif redirect.uri is not None:
        made.path_redirect = redirect.uri
    if redirect.authority is not None:
        made.host_redirect = redirect.authority
    if redirect.scheme is not None:
        made.scheme_redirect = redirect.scheme
    port = place.port if redirect.derive_port == "FROM_REQUEST_PORT" else redirect.port
    scheme = (redirect.scheme or ("https" if place.tls else "http")).lower()
    # A new authority comes without a port; the old one may bring another, which must go.
    if port is not None and not (redirect.authority and port == DEFAULT_PORTS[scheme]):
        made.port_redirect = port
    return made


def _forward(scope: Scope, route: Any, rule: HttpRoute, namespace: str, place: Place) -> None:
    shares = [(scope.destination(share.destination, namespace, place.default_port), share) for share in rule.route]
    weighted = [(cluster, share) for cluster, share in shares if share.weight or len(rule.route) == 1]
    choice: dict[str, Any]
    authority = rule.headers.request.authority
    if len(weighted) == 1:
        authority = authority or weighted[0][1].headers.request.authority
    if len(weighted) == 1 and not weighted[0][1].headers.where:
        choice = {"cluster": weighted[0][0]}
    else:
        made = pb.message("envoy.config.route.v3.WeightedCluster")()
        for cluster, share in weighted:
            entry = made.clusters.add(name=cluster, weight=wrapped(share.weight or 1))
            _set_headers(entry, share.headers.request, share.headers.response)
            if share.headers.request.authority and len(weighted) > 1:
                entry.host_rewrite_literal = share.headers.request.authority
        choice = {"weighted_clusters": made}
    action = pb.message("envoy.config.route.v3.RouteAction")(**forward(scope, choice, rule.timeout))
    if authority:
        action.host_rewrite_literal = authority
    _rewrite(action, rule.rewrite)
    sticky.by_destination(scope, action, [cluster for cluster, _ in weighted])
    for copy in rule.copies:
        mirror(action, scope.destination(copy.destination, namespace, place.default_port), copy.percentage.millionths)
    route.route.CopyFrom(action)


def mirror(action: Any, cluster: str, millionths: int) -> None:
    """Send a share of the requests to another cluster as well, unless it is none.

    As with Istio (since 1.28), a copy keeps its host.
    """
    if millionths:
        action.request_mirror_policies.add(
            cluster=cluster,
            runtime_fraction={"default_value": {"numerator": millionths, "denominator": "MILLION"}},
            trace_sampled=wrapped(False),
            disable_shadow_host_suffix_append=True,
        )
        if not action.timeout.ToTimedelta():
            # Nobody waits for the answer to a copy, and who gives up ends the request alone: what a server that hangs
            # is sent must not heap up.
            action.ClearField("idle_timeout")


def _rewrite(action: Any, rewrite: Rewrite | None) -> None:
    if rewrite is not None and rewrite.uri_regex_rewrite is not None:
        action.regex_rewrite.pattern.regex = rewrite.uri_regex_rewrite.match
        action.regex_rewrite.substitution = rewrite.uri_regex_rewrite.rewrite
    if rewrite is not None and rewrite.uri:
        action.prefix_rewrite = rewrite.uri
    if rewrite is not None and rewrite.authority:
        action.host_rewrite_literal = rewrite.authority


def _match(match: HttpMatch) -> dict[str, Any]:
    made: dict[str, Any] = {"prefix": "/"}
    uri = match.uri
    if uri is not None:
        if uri.exact is not None:
            made = {"path": uri.exact}
        elif uri.prefix is not None:
            made = {"prefix": uri.prefix}
        else:
            made = {"safe_regex": {"regex": uri.regex}}
    if match.ignore_uri_case:
        made["case_sensitive"] = wrapped(False)
    headers = [
        {"name": name, "string_match": _string(wanted)}
        for name, wanted in (
            (":scheme", match.scheme),
            (":method", match.method),
            (":authority", match.authority),
        )
        if wanted is not None
    ]
    metadata = []
    for conditions, invert in ((match.headers, False), (match.without_headers, True)):
        for name, wanted in conditions.items():
            claim = claim_of(name)
            if claim is None:
                headers.append(header_match(name, wanted, invert))
            else:
                value = {"string_match": _string(wanted)} if wanted.where else {"present_match": True}
                metadata.append(claims.matcher(claim, value, invert=invert))
    made["headers"] = headers
    made["dynamic_metadata"] = metadata
    made["query_parameters"] = [_query(name, wanted) for name, wanted in match.query_params.items()]
    return made


def header_match(name: str, wanted: HeaderMatch, invert: bool) -> dict[str, Any]:
    """A header, as Envoy matches it."""
    if not wanted.where:
        return {"name": name, "present_match": True, "invert_match": invert}
    made: dict[str, Any] = {"name": name, "string_match": _string(wanted), "invert_match": invert}
    if invert:
        # A header that is not there does not have the value either.
        made["treat_missing_header_as_empty"] = True
    return made


def _query(name: str, wanted: HeaderMatch) -> dict[str, Any]:
    if not wanted.where:
        return {"name": name, "present_match": True}
    return {"name": name, "string_match": _string(wanted)}


def _string(wanted: StringMatch | HeaderMatch) -> dict[str, Any]:
    if wanted.exact is not None:
        return {"exact": wanted.exact}
    if wanted.prefix is not None:
        return {"prefix": wanted.prefix}
    return {"safe_regex": {"regex": wanted.regex}}


def _set_headers(owner: Any, request: HeaderOperations, response: HeaderOperations) -> None:
    put, add = (
        {name: value for name, value in values.items() if not is_authority(name)}
        for values in (request.set, request.add)
    )
    owner.request_headers_to_add.extend(pb.HeaderValueOption(**one) for one in header_options(put, add, escape=False))
    owner.request_headers_to_remove.extend(request.remove)
    owner.response_headers_to_add.extend(
        pb.HeaderValueOption(**one) for one in header_options(response.set, response.add, escape=False)
    )
    owner.response_headers_to_remove.extend(response.remove)
