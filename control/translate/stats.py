"""What is counted otherwise than Istio's standard says: the configuration of Istio's stats filter.

Without one a proxy counts the standard. Envoy alone counts none of Istio's metrics.
"""

from __future__ import annotations

from typing import Any, Final

from pymesh.control.translate import telemetry
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.telemetry import ListenerSide
from pymesh.control.translate.wire import extension
from pymesh.control.xds import pb

_NAME: Final = "istio.stats"


def made(scope: Scope, listener: ListenerSide) -> list[dict[str, Any]]:
    """The filter, of requests as of connections, if there is something to say."""
    overrides = telemetry.metrics(scope, telemetry.side_of(listener))
    told = {name: one for name, one in (overrides or {}).items() if one.disabled or one.tags}
    if overrides is not None and not told:
        return []
    if scope.proxy.is_envoy:
        proxy = scope.proxy
        for one in scope.store.telemetries.of(scope.store.options.root_namespace, proxy.namespace, proxy.labels):
            if one.spec.metrics:
                scope.report.warning(
                    one.spec.place("metrics"),
                    f"metrics of {one.title} do not apply to {proxy.name}.{proxy.namespace}: that proxy is Envoy",
                    "run the workload with pymesh's own proxy",
                )
        return []
    config = pb.message("stats.PluginConfig")()
    if overrides is None:
        config.metrics.add(drop=True)
    for name, override in sorted(told.items()):
        config.metrics.add(
            name=name,
            drop=override.disabled,
            dimensions={tag: one.value for tag, one in override.tags.items() if one.operation == "UPSERT"},
            tags_to_remove=sorted(tag for tag, one in override.tags.items() if one.operation == "REMOVE"),
        )
    return [extension(_NAME, config)]
