"""RequestAuthentications as Envoy's filter for JSON Web Tokens.

A token must be good wherever it stands, and none needs to be there. With several rules one of them taking its token is
enough, since they may look at the same place; else each must find none or a good one. What a good token says is left
for RBAC, where Istio's proxies look for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymesh.control.resources.destination import ClientTls
from pymesh.control.resources.locality import LocalityLbSetting
from pymesh.control.resources.request_authentication import JwtRule, RequestAuthentication
from pymesh.control.store import jwks
from pymesh.control.translate import claims, clusters, endpoints, names, origination, tls
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.wire import extension, seconds
from pymesh.control.xds import pb

_SPACE_DELIMITED = ("permission", "scope")

Json = dict[str, Any]


def http(scope: Scope, written: Sequence[RequestAuthentication]) -> list[Json]:
    """The filter for requests, if there are rules."""
    # Istio's order, and its names.
    rules = sorted(
        ((one.namespace, rule) for one in written for rule in one.spec.jwt_rules), key=lambda pair: pair[1].issuer
    )
    if not rules:
        return []
    providers = {f"origins-{n}": _provider(scope, rule, namespace) for n, (namespace, rule) in enumerate(rules)}
    each: list[Json] = [{"provider_name": name} for name in providers]
    lenient = [_any([one, {"allow_missing": {}}]) for one in each]
    requires = lenient[0] if len(each) == 1 else _any([*each, {"requires_all": {"requirements": lenient}}])
    message = pb.message("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication")(
        providers=providers,
        rules=[{"match": {"prefix": "/"}, "requires": requires}],
        # A browser asks without a token whether it may ask with one.
        bypass_cors_preflight=True,
    )
    return [extension(claims.FILTER, message)]


def _any(requirements: list[Json]) -> Json:
    return {"requires_any": {"requirements": requirements}}


def _provider(scope: Scope, rule: JwtRule, namespace: str) -> Any:
    made = pb.message("envoy.extensions.filters.http.jwt_authn.v3.JwtProvider")(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward_original_token,
        from_headers=[{"name": one.name, "value_prefix": one.prefix} for one in rule.from_headers],
        from_params=rule.from_params,
        from_cookies=rule.from_cookies,
        forward_payload_header=rule.output_payload_to_header,
        claim_to_headers=[{"header_name": one.header, "claim_name": one.claim} for one in rule.output_claim_to_headers],
        # Routes of a gateway may ask for a header that a good token has filled.
        clear_route_cache=scope.proxy.kind == "router",
        payload_in_metadata=claims.PAYLOAD,
        normalize_payload_in_metadata={
            "space_delimited_claims": sorted({*_SPACE_DELIMITED, *rule.space_delimited_claims})
        },
    )
    if rule.jwks:
        made.local_jwks.inline_string = rule.jwks
    else:
        made.remote_jwks.CopyFrom(_remote(scope, rule, namespace))
    return made


def _remote(scope: Scope, rule: JwtRule, namespace: str) -> Any:
    """Keys that the proxy fetches: first at once, then every five minutes. Without them no token is good."""
    return pb.message("envoy.extensions.filters.http.jwt_authn.v3.RemoteJwks")(
        http_uri={"uri": rule.jwks_uri, "cluster": _server(scope, rule, namespace), "timeout": seconds(rule.timeout)},
        cache_duration={"seconds": 300},
        async_fetch={"fast_listener": True},
    )


def _server(scope: Scope, rule: JwtRule, namespace: str) -> str:
    """The cluster that has the keys, which the proxy will be given."""
    number, host = jwks.port(rule), rule.uri.hostname or ""
    service = jwks.service(scope.store, rule, namespace)
    port = service.port(number) if service is not None else None
    if service is not None and port is not None and rule.uri.scheme == "http":
        return scope.use(service, port)
    name = names.key_server(number, service.host if service is not None else host)
    if service is None or port is None or service.resolution == "NONE":
        found = endpoints.local(name, host, number)
        secured = tls.client(ClientTls(mode="SIMPLE"), host, ["http/1.1"], scope.proxy.namespace)
        scope.key_servers[name] = clusters.key_server(name, scope.proxy, found, secured)
        return name
    scope.use(service, port)  # with it come the Secrets that its DestinationRule names
    wanted = clusters.client_tls(scope.store, scope.proxy, service, port)
    if wanted is None or wanted.mode not in ("SIMPLE", "MUTUAL") or wanted.insecure_skip_verify:
        wanted = ClientTls(mode="SIMPLE")
    if origination.is_lacking(scope.store, scope.proxy, wanted):
        scope.key_servers[name] = clusters.black_hole(name)
        return name
    anywhere = LocalityLbSetting(enabled=False)
    found = endpoints.assignment(name, service, number, {}, scope.proxy, scope.store.peers, anywhere, False)
    secured = tls.client(wanted, service.host, ["http/1.1"], scope.proxy.namespace, service.subject_alt_names)
    scope.key_servers[name] = clusters.key_server(name, scope.proxy, found, secured)
    return name
