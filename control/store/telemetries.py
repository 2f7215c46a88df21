"""The Telemetry resources of the mesh, by whom they are for.

As with Istio there is one for the mesh, one for a namespace and one for a workload: the oldest of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pymesh.control.resources.decode import Located
from pymesh.control.resources.diagnostics import Report, did_you_mean
from pymesh.control.resources.mesh_config import ExtensionProvider, MeshConfig
from pymesh.control.resources.telemetry import Telemetry

#: The label of a gateway that the Gateway API has deployed.
_GATEWAY = "gateway.networking.k8s.io/gateway-name"


@dataclass(frozen=True, slots=True)
class Telemetries:
    """What is written."""

    #: Namespace -> the one for all of it; that of the root namespace is for the mesh.
    wide: Mapping[str, Telemetry] = field(default_factory=dict)
    #: Namespace -> those for some of its workloads, the oldest first.
    narrow: Mapping[str, Sequence[Telemetry]] = field(default_factory=dict)

    def of(self, root: str, namespace: str, labels: Mapping[str, str]) -> Iterator[Telemetry]:
        """Those for a workload: what comes later goes before what comes earlier."""
        for owner in dict.fromkeys((root, namespace)):
            if owner in self.wide:
                yield self.wide[owner]
        selecting = (one for one in self.narrow.get(namespace, ()) if _selects(one, labels))
        yield from (one for one in (next(selecting, None),) if one is not None)

    def __iter__(self) -> Iterator[Telemetry]:
        yield from self.wide.values()
        for several in self.narrow.values():
            yield from several


def gather(written: Iterable[Telemetry], report: Report) -> Telemetries:
    """Those of the mesh, the oldest first."""
    wide: dict[str, Telemetry] = {}
    narrow: dict[str, list[Telemetry]] = {}
    for one in written:
        if one.spec.is_narrow:
            narrow.setdefault(one.namespace, []).append(one)
            continue
        first = wide.setdefault(one.namespace, one)
        if first is not one:
            report.warning(
                one.metadata.place("name"),
                f"{one.title} says nothing: {first.title} is the one for its namespace",
                f"move this into the one at {first.at}, or select workloads",
            )
    return Telemetries(wide, narrow)


def check(telemetries: Telemetries, mesh: MeshConfig, report: Report) -> None:
    """Tell of providers that there are not, or that are for something else."""
    default = mesh.default_providers
    named: list[tuple[Located, str, str]] = [
        *((default, "tracing", name) for name in default.tracing),
        *((default, "metrics", name) for name in default.metrics),
        *((default, "accessLogging", name) for name in default.access_logging),
    ]
    for one in telemetries:
        for tracing in one.spec.tracing:
            named += [(provider, "tracing", provider.name) for provider in tracing.providers]
        for metrics in one.spec.metrics:
            named += [(provider, "metrics", provider.name) for provider in metrics.providers]
        for logging in one.spec.access_logging:
            named += [(provider, "accessLogging", provider.name) for provider in logging.providers]
    for written, purpose, name in named:
        _check(written, purpose, name, mesh, report)
    traced = bool(default.tracing) or any(tracing.providers for one in telemetries for tracing in one.spec.tracing)
    if mesh.enable_tracing and not traced:
        hint = "name an extension provider with 'opentelemetry' in defaultProviders.tracing, or in a Telemetry"
        report.warning(mesh.place("enableTracing"), "nobody collects spans, so nothing is traced", hint)


def takes(provider: ExtensionProvider, purpose: str) -> bool:
    """Whether a provider is for this."""
    return {
        "tracing": provider.opentelemetry is not None,
        "metrics": provider.prometheus is not None,
        "accessLogging": provider.envoy_file_access_log is not None or provider.envoy_otel_als is not None,
    }[purpose]


def _check(written: Located, purpose: str, name: str, mesh: MeshConfig, report: Report) -> None:
    at = written.place("name" if "name" in written.where else purpose)
    provider = mesh.providers.get(name)
    if provider is not None and takes(provider, purpose):
        return
    known = [one.name for one in mesh.providers.values() if takes(one, purpose)]
    hint = did_you_mean(name, known, otherwise="describe it under extensionProviders of ConfigMap istio")
    what = f"there is no extension provider {name!r}"
    if provider is not None:
        what = f"extension provider {name!r} is not for {purpose}"
    report.warning(at, f"{what}: it is told nothing", hint)


def _selects(one: Telemetry, labels: Mapping[str, str]) -> bool:
    if one.spec.target_refs:
        return any(labels.get(_GATEWAY) == target.name for target in one.spec.target_refs)
    return one.spec.selector is not None and one.spec.selector.selects(labels)
