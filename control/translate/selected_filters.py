"""Our own resources that select workloads or gateways, as HTTP filters there, among those that decide who gets in.

| phase | stands |
|---|---|
| AUTHN | before all others |
| AUTHZ | behind who is asked outside and behind JWTs, before the access policies |
| STATS | right behind the access policies |
| none | behind rate limits, last before the router |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pymesh.control.resources.python_filter import FilterTarget, PythonFilter
from pymesh.control.resources.rate_limit import LocalRateLimit
from pymesh.control.translate import access, python_filter, rate_limit
from pymesh.control.translate.scope import Scope

Filters = list[dict[str, Any]]


def inbound(scope: Scope, port: int) -> Filters:
    """The filters of a sidecar's inbound listeners, with those that decide who gets in."""
    limits, python = _selected(scope, _of_workload(scope))
    found = [one for one in python if one.spec.takes("SERVER", port)]
    return _arranged(access.inbound_http(scope), limits, found)


def outbound(scope: Scope, port: int) -> Filters:
    """The filters of a sidecar's outbound listeners."""
    found = [one for one in _selected(scope, _of_workload(scope))[1] if one.spec.takes("CLIENT", port)]
    return _arranged(access.HttpGuards([], []), [], found)


def gateway(scope: Scope, name: str, port: int) -> Filters:
    """The filters of a gateway's listeners, for the Gateway ``name``, with those that decide who gets in."""
    limits, python = _selected(scope, lambda target: target.kind == "Gateway" and target.name == name)
    found = [one for one in python if one.spec.takes("CLIENT", port, is_gateway=True)]
    return _arranged(access.gateway_http(scope, name), limits, found)


def _of_workload(scope: Scope) -> Callable[[FilterTarget], bool]:
    return lambda target: target.kind == "Service" and scope.serves(target.name)


def _arranged(guards: access.HttpGuards, limits: Sequence[LocalRateLimit], python: Sequence[PythonFilter]) -> Filters:
    in_order = sorted(python, key=lambda one: (-one.spec.priority, one.namespace, one.name))

    def phase(name: Literal["UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"]) -> Filters:
        return [python_filter.made(one) for one in in_order if one.spec.phase == name]

    return [
        *phase("AUTHN"),
        *guards.identity,
        *phase("AUTHZ"),
        *guards.policies,
        *phase("STATS"),
        *(rate_limit.made(one) for one in limits),
        *phase("UNSPECIFIED_PHASE"),
    ]


def _selected(
    scope: Scope, targeted: Callable[[FilterTarget], bool]
) -> tuple[list[LocalRateLimit], list[PythonFilter]]:
    proxy = scope.proxy
    limits, python = [], []
    for one in scope.store.filters:
        if one.namespace != proxy.namespace:
            continue
        selector = one.spec.selector
        by_label = selector is not None and selector.match_labels.items() <= proxy.labels.items()
        if not by_label and not any(map(targeted, one.spec.target_refs)):
            continue
        if proxy.is_envoy and (not isinstance(one, LocalRateLimit) or rate_limit.needs_identity(one)):
            scope.report.warning(
                one.at,
                f"{one.title} does not apply to {proxy.name}.{proxy.namespace}: that proxy is Envoy",
                "run the workload with pymesh's own proxy",
            )
        elif isinstance(one, LocalRateLimit):
            limits.append(one)
        else:
            python.append(one)
    return limits, python
