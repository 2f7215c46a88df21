"""What the Telemetry resources and the mesh's configuration come to for one side of a proxy, by Istio's rules.

That of the mesh comes first, then that of the namespace, then that of the workload; within one the entries in their
order. What comes later goes before what comes earlier:

* tracing: field by field; tags as a whole;
* logging and metrics: who is told is said by the last resource that says so, and what others are told is of no
  interest. Entries without providers are about those of the entry before. Of each provider the last filter counts, of
  each metric and label the last override.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from pymesh.control.resources.mesh_config import ExtensionProvider
from pymesh.control.resources.security import ProviderRef
from pymesh.control.resources.telemetry import (
    AccessLogging,
    CustomTag,
    LogFilter,
    MetricsOverride,
    Side,
    TagOverride,
    Telemetry,
)
from pymesh.control.store import telemetries
from pymesh.control.translate.scope import Scope

#: What a listener is for.
ListenerSide = Literal["inbound", "outbound", "gateway"]
#: Of requests that are traced, if nobody says how many: Istio's.
_SAMPLING: Final = 1.0


def side_of(listener: ListenerSide) -> Side:
    """The side that a Telemetry calls it. As with Istio a gateway is a client."""
    return "SERVER" if listener == "inbound" else "CLIENT"


@dataclass(frozen=True, slots=True)
class Traced:
    """Which requests are traced, and who collects the spans."""

    provider: str = ""
    disabled: bool = False
    #: Percent.
    sampling: float = _SAMPLING
    tags: Mapping[str, CustomTag] = field(default_factory=dict)
    istio_tags: bool = True


@dataclass(slots=True)
class Override:
    """What becomes of one metric."""

    disabled: bool = False
    tags: dict[str, TagOverride] = field(default_factory=dict)


def tracing(scope: Scope, side: Side) -> Traced | None:
    """What is traced; None: nothing is."""
    mesh = scope.store.mesh
    default = mesh.default_config.tracing
    found = Traced(
        next(iter(mesh.default_providers.tracing), ""),
        sampling=default.sampling or _SAMPLING,
        tags=default.custom_tags,
        istio_tags=default.enable_istio_tags,
    )
    for telemetry in _applicable(scope):
        for one in telemetry.spec.tracing:
            if not one.match.takes(side):
                continue
            said: dict[str, Any] = {
                "provider": one.providers[0].name if one.providers else None,
                "disabled": one.disable_span_reporting,
                "sampling": one.random_sampling_percentage,
                "tags": one.custom_tags or None,
                "istio_tags": one.enable_istio_tags,
            }
            found = replace(found, **{name: value for name, value in said.items() if value is not None})
    return found if found.provider and not found.disabled else None


def logs(scope: Scope, side: Side) -> dict[str, LogFilter | None] | None:
    """Provider -> which requests it is told of; None: no Telemetry and no default says anything of it."""
    default = scope.store.mesh.default_providers.access_logging
    levels = [one.spec.access_logging for one in _applicable(scope) if one.spec.access_logging]
    if not levels:
        return dict.fromkeys(default) if default else None
    meant = [[one for one in level if one.match.takes(side)] for level in levels]
    in_scope = _in_scope(default, meant)
    filters: dict[str, LogFilter | None] = {}
    found: dict[str, LogFilter | None] = {}
    inherited: Sequence[str] = default
    for level in levels:
        for one in level:
            inherited = _names(one.providers) or inherited
            for name in inherited if one.match.takes(side) else ():
                if name not in in_scope:
                    continue
                if one.disabled:
                    found.pop(name, None)
                    continue
                if one.providers or one.filter is not None:
                    filters[name] = one.filter
                found[name] = filters.get(name)
    return found


def metrics(scope: Scope, side: Side) -> dict[str, Override] | None:
    """Metric -> what becomes of it, for Prometheus; None: nothing is counted."""
    mesh = scope.store.mesh
    default = mesh.default_providers.metrics if "metrics" in mesh.default_providers.where else ("prometheus",)
    entries = [entry for one in _applicable(scope) for entry in one.spec.metrics]
    in_scope = [name for name in _in_scope(default, [[one] for one in entries]) if _takes(scope, name, "metrics")]
    if not in_scope:
        return None
    name = next(iter(in_scope))
    found: dict[str, Override] = {}
    is_off = False
    inherited: Sequence[str] = default
    for entry in entries:
        inherited = _names(entry.providers) or inherited
        for one in entry.overrides if name in inherited else ():
            # As with Istio, all off on one side alone is all off there; what is said of one metric switches on again.
            is_whole = one.match.metric == "ALL_METRICS" and bool(one.disabled)
            if side in one.match.sides:
                is_off = is_whole
                if not is_whole:
                    _override(found, one)
    return None if is_off else found


def provider(scope: Scope, name: str, purpose: str) -> ExtensionProvider | None:
    """The extension provider of that name, if there is one for this; whoever names another has been told."""
    found = scope.store.mesh.providers.get(name)
    return found if found is not None and telemetries.takes(found, purpose) else None


def _applicable(scope: Scope) -> list[Telemetry]:
    proxy = scope.proxy
    return list(scope.store.telemetries.of(scope.store.options.root_namespace, proxy.namespace, proxy.labels))


def _in_scope(default: Sequence[str], levels: Iterable[Sequence[AccessLogging] | Sequence[object]]) -> list[str]:
    """Who is told: what the last level says that names anybody."""
    names = list(default)
    for level in levels:
        named = [name for one in level for name in _names(getattr(one, "providers", ()))]
        names = named or names
    return list(dict.fromkeys(names))


def _names(providers: Sequence[ProviderRef]) -> list[str]:
    return [one.name for one in providers]


def _takes(scope: Scope, name: str, purpose: str) -> bool:
    return provider(scope, name, purpose) is not None


def _override(found: dict[str, Override], one: MetricsOverride) -> None:
    for name in one.match.names:
        override = found.setdefault(name, Override())
        if one.disabled is not None:
            override.disabled = one.disabled
        override.tags.update(one.tag_overrides)
