"""PythonFilter resources as HTTP filters of the proxies that they select."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymesh.control.resources.python_filter import FilterTarget, PythonFilter
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.wire import extension, seconds, struct
from pymesh.control.xds import pb


def inbound(scope: Scope) -> list[dict[str, Any]]:
    """The filters of a sidecar's inbound listeners."""
    proxy = scope.proxy

    def selected(target: FilterTarget) -> bool:
        service = scope.store.service(target.name, proxy.namespace) if target.kind == "Service" else None
        return service is not None and service.selects(proxy.namespace, proxy.labels)

    return _filters(scope, selected)


def gateway(scope: Scope, name: str) -> list[dict[str, Any]]:
    """The filters of a gateway's listeners, for the Gateway ``name``."""
    return _filters(scope, lambda target: target.kind == "Gateway" and target.name == name)


def _filters(scope: Scope, targeted: Callable[[FilterTarget], bool]) -> list[dict[str, Any]]:
    proxy = scope.proxy
    found = []
    for one in scope.store.filters:
        if one.namespace != proxy.namespace:
            continue
        selector = one.spec.selector
        by_label = selector is not None and selector.match_labels.items() <= proxy.labels.items()
        if not by_label and not any(map(targeted, one.spec.target_refs)):
            continue
        if proxy.is_envoy:
            scope.report.warning(
                one.at,
                f"{one.title} does not apply to {proxy.name}.{proxy.namespace}: that proxy is Envoy",
                "run the workload with pymesh's own proxy",
            )
            continue
        found.append(_filter(one))
    return found


def _filter(one: PythonFilter) -> dict[str, Any]:
    spec = one.spec
    name = f"{one.namespace}/{one.name}"
    message = pb.message("pymesh.filters.v1.PythonFilter")(
        **{"class": spec.class_},
        name=name,
        source=spec.source,
        config=struct(spec.config),
        failure_policy=spec.failure_policy,
        timeout=seconds(spec.timeout),
    )
    return extension(f"pymesh.filters.python.{name}", message)
