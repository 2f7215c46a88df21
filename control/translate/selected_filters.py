"""Our own resources that select workloads or gateways, as HTTP filters there: rate limits, then Python's filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymesh.control.resources.python_filter import FilterTarget
from pymesh.control.resources.rate_limit import LocalRateLimit
from pymesh.control.translate import python_filter, rate_limit
from pymesh.control.translate.scope import Scope


def inbound(scope: Scope) -> list[dict[str, Any]]:
    """The filters of a sidecar's inbound listeners."""
    return _filters(scope, lambda target: target.kind == "Service" and scope.serves(target.name))


def gateway(scope: Scope, name: str) -> list[dict[str, Any]]:
    """The filters of a gateway's listeners, for the Gateway ``name``."""
    return _filters(scope, lambda target: target.kind == "Gateway" and target.name == name)


def _filters(scope: Scope, targeted: Callable[[FilterTarget], bool]) -> list[dict[str, Any]]:
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
            limits.append(rate_limit.made(one))
        else:
            python.append(python_filter.made(one))
    return limits + python
