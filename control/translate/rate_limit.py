"""LocalRateLimit resources as Envoy's local rate limit filter."""

from __future__ import annotations

from typing import Any

from pymesh.control.resources.rate_limit import Limit, LimitRule, LocalRateLimit
from pymesh.control.translate.routes import header_match
from pymesh.control.translate.wire import extension, seconds, wrapped
from pymesh.control.xds import pb

_ALL = {"default_value": {"numerator": 100}}
_NONE = {"default_value": {"numerator": 0}}


def needs_identity(one: LocalRateLimit) -> bool:
    """Whether it tells clients apart by what only our own proxy looks at."""
    return any(rule.each == "Identity" for rule in one.spec.rules)


def made(one: LocalRateLimit) -> dict[str, Any]:
    """The filter: a bucket for the total, and for each rule one, or one for each value."""
    spec = one.spec
    name = f"{one.namespace}/{one.name}"
    message = pb.message("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit")(
        stat_prefix=name,
        status={"code": spec.status},
        filter_enabled=_ALL,
        filter_enforced=_ALL if spec.enforce else _NONE,
        rate_limited_as_resource_exhausted=True,
        local_rate_limit_per_downstream_connection=spec.per_connection,
        max_dynamic_descriptors=wrapped(spec.remembered),
    )
    if spec.tell_clients:
        message.enable_x_ratelimit_headers = "DRAFT_VERSION_03"
    if spec.total is not None:
        message.token_bucket.CopyFrom(_bucket(spec.total))
    for number, rule in enumerate(spec.rules):
        actions, entries = _parts(number, rule)
        message.rate_limits.add(actions=actions)
        message.descriptors.add(entries=entries, token_bucket=_bucket(rule.limit))
    return extension(f"pymesh.local_rate_limit.{name}", message)


def _bucket(limit: Limit) -> Any:
    return pb.message("envoy.type.v3.TokenBucket")(
        max_tokens=limit.burst or limit.requests,
        tokens_per_fill=wrapped(limit.requests),
        fill_interval=seconds(limit.per),
    )


def _parts(number: int, rule: LimitRule) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """What is asked of a request, and the descriptor that comes of it."""
    named = {"descriptor_key": "rule", "descriptor_value": str(number)}
    headers = [header_match(name, wanted, False) for name, wanted in rule.headers.items()]
    actions: list[dict[str, Any]] = [
        {"header_value_match": {**named, "headers": headers}} if headers else {"generic_key": named}
    ]
    entries = [{"key": "rule", "value": str(number)}]
    if rule.each == "Header":
        actions.append({"request_headers": {"header_name": rule.header, "descriptor_key": "header"}})
        entries.append({"key": "header", "value": ""})
    elif rule.each == "Address":
        actions.append({"remote_address": {}})
        entries.append({"key": "remote_address", "value": ""})
    elif rule.each == "Identity":
        identity = pb.message("pymesh.filters.v1.ClientIdentity")(descriptor_key="identity")
        actions.append({"extension": extension("pymesh.rate_limit_descriptors.client_identity", identity)})
        entries.append({"key": "identity", "value": ""})
    return actions, entries
