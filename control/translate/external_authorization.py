"""AuthorizationPolicies with action CUSTOM: for each provider a filter that looks which rule a request matches, and one
that asks the provider if any does.

The first is RBAC that decides nothing (shadow rules) and leaves the rule's name in dynamic metadata; the second asks
where it finds a name of its own provider there. Where there is nobody to ask, the rules deny instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from pymesh.control.resources.mesh_config import ExtAuthzGrpc, ExtAuthzHttp, RequestBody
from pymesh.control.resources.security import AuthorizationPolicy
from pymesh.control.store.providers import Authorizer
from pymesh.control.translate import authorization
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.wire import extension, grpc_service, seconds
from pymesh.control.xds import pb

#: Istio's, as everything that is named here.
_STAT_PREFIX: Final = "istio_ext_authz_"
_POLICY_PREFIX: Final = "istio-ext-authz"
_NOBODY_TO_ASK: Final = "-deny-due-to-bad-CUSTOM-action"

Json = dict[str, Any]


def http(scope: Scope, selected: Sequence[AuthorizationPolicy]) -> list[Json]:
    """The filters for requests."""
    made = []
    for name, policies in _by_provider(selected):
        provider = scope.store.providers.authorizers.get(name)
        made.append(authorization.http_filter(f"custom.{name}", _rules(name, policies, provider, http=True)))
        if provider is not None:
            made.append(extension(f"envoy.filters.http.ext_authz.{name}", _filter(scope, name, provider)))
    return made


def tcp(scope: Scope, selected: Sequence[AuthorizationPolicy]) -> list[Json]:
    """The filters for connections, about which only gRPC can ask."""
    made = []
    for name, policies in _by_provider(selected):
        provider = scope.store.providers.authorizers.get(name)
        if provider is not None and not isinstance(provider.written, ExtAuthzGrpc):
            scope.report.warning(
                policies[0].spec.place("provider"),
                f"{name!r} is asked over HTTP, which says nothing of TCP connections: {scope.proxy.name} refuses them",
                "use envoyExtAuthzGrpc, or narrow the policy with ports of HTTP",
            )
            provider = None
        rbac = authorization.tcp_filter(f"custom.{name}", _rules(name, policies, provider, http=False))
        made.append(rbac)
        if provider is not None:
            message = pb.message("envoy.extensions.filters.network.ext_authz.v3.ExtAuthz")(
                stat_prefix="tcp",
                grpc_service=_grpc(scope, provider),
                failure_mode_allow=provider.written.fail_open,
                transport_api_version="V3",
                filter_enabled_metadata=_asks(authorization.NETWORK, name),
            )
            made.append(extension(f"envoy.filters.network.ext_authz.{name}", message))
    return made


def _by_provider(selected: Sequence[AuthorizationPolicy]) -> Iterator[tuple[str, list[AuthorizationPolicy]]]:
    found: dict[str, list[AuthorizationPolicy]] = {}
    for one in selected:
        if one.spec.action == "CUSTOM" and one.spec.provider is not None:
            found.setdefault(one.spec.provider.name, []).append(one)
    yield from sorted(found.items())


def _rules(name: str, policies: Sequence[AuthorizationPolicy], provider: Authorizer | None, *, http: bool) -> Json:
    """The fields of RBAC: rules that mark what is asked about, or deny it."""
    end = "" if provider is not None else _NOBODY_TO_ASK
    named = authorization.named_rules(policies, http=http)
    rules = {"action": "DENY", "policies": {f"{_prefix(name)}{rule}{end}": policy for rule, policy in named.items()}}
    if provider is None:
        return {"rules": rules}
    return {"shadow_rules": rules, "shadow_rules_stat_prefix": _STAT_PREFIX}


def _prefix(provider: str) -> str:
    return f"{_POLICY_PREFIX}-{provider}-"


def _asks(rbac: str, provider: str) -> Json:
    """What a filter that asks finds if a rule of its provider matched. Names have no brackets: no other's begins so."""
    return {
        "filter": rbac,
        "path": [{"key": f"{_STAT_PREFIX}shadow_effective_policy_id"}],
        "value": {"string_match": {"prefix": f"{_prefix(provider)}ns["}},
    }


def _filter(scope: Scope, name: str, provider: Authorizer) -> Any:
    asked = provider.written
    message = pb.message("envoy.extensions.filters.http.ext_authz.v3.ExtAuthz")(
        transport_api_version="V3",
        failure_mode_allow=asked.fail_open,
        status_on_error={"code": int(asked.status_on_error)},
        clear_route_cache=asked.clear_route_cache,
        filter_enabled_metadata=_asks(authorization.HTTP, name),
    )
    if asked.include_request_body_in_check is not None:
        message.with_request_body.CopyFrom(_body(asked.include_request_body_in_check))
    if isinstance(asked, ExtAuthzGrpc):
        message.grpc_service.CopyFrom(pb.message("envoy.config.core.v3.GrpcService")(**_grpc(scope, provider)))
        return message
    if asked.include_request_headers_in_check:
        message.allowed_headers.CopyFrom(_headers(asked.include_request_headers_in_check))
    message.http_service.CopyFrom(_http_service(scope, provider, asked))
    return message


def _body(wanted: RequestBody) -> Any:
    return pb.message("envoy.extensions.filters.http.ext_authz.v3.BufferSettings")(
        max_request_bytes=wanted.max_request_bytes,
        allow_partial_message=wanted.allow_partial_message,
        pack_as_bytes=wanted.pack_as_bytes,
    )


def _grpc(scope: Scope, provider: Authorizer) -> Json:
    cluster = scope.use(provider.service, provider.port)
    return {**grpc_service(cluster), "timeout": seconds(provider.written.timeout)}


def _http_service(scope: Scope, provider: Authorizer, asked: ExtAuthzHttp) -> Any:
    made = pb.message("envoy.extensions.filters.http.ext_authz.v3.HttpService")(
        server_uri={
            "uri": f"http://{provider.service.host}",
            "cluster": scope.use(provider.service, provider.port),
            "timeout": seconds(asked.timeout),
        },
        path_prefix=asked.path_prefix,
    )
    for header, value in sorted(asked.include_additional_headers_in_check.items()):
        made.authorization_request.headers_to_add.add(key=header, value=value)
    answer = made.authorization_response
    for field, headers in (
        ("allowed_upstream_headers", asked.headers_to_upstream_on_allow),
        ("allowed_client_headers_on_success", asked.headers_to_downstream_on_allow),
        ("allowed_client_headers", asked.headers_to_downstream_on_deny),
    ):
        if headers:
            getattr(answer, field).CopyFrom(_headers(headers))
    return made


def _headers(written: Sequence[str]) -> Any:
    """Names in any case; ``text*`` and ``*text``."""
    patterns: list[Json] = []
    for one in written:
        if one.startswith("*"):
            pattern = {"suffix": one[1:]}
        elif one.endswith("*"):
            pattern = {"prefix": one[:-1]}
        else:
            pattern = {"exact": one}
        patterns.append({**pattern, "ignore_case": True})
    return pb.message("envoy.type.matcher.v3.ListStringMatcher")(patterns=patterns)
