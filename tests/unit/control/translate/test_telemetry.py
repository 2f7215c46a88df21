"""How Telemetry resources of mesh, namespace and workload come together for each side of a proxy."""

from __future__ import annotations

import pytest

from pymesh.control.resources.telemetry import Side
from pymesh.control.translate import telemetry
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.scope import Scope
from tests.tools.told import assembled

PROVIDERS = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |-
    extensionProviders:
    - {name: a, opentelemetry: {service: otel.shop, port: 4317}}
    - {name: b, opentelemetry: {service: otel.shop, port: 4317}}
    - {name: log-a, envoyFileAccessLog: {path: /a}}
    - {name: log-b, envoyFileAccessLog: {path: /b}}
    defaultProviders: DEFAULTS
---
apiVersion: v1
kind: Service
metadata: {name: otel, namespace: shop}
spec: {ports: [{name: grpc, port: 4317}]}
"""


def scope(defaults: str, **levels: str) -> Scope:
    """A workload `web` of `shop`; `levels` are the specs of Telemetries for mesh, namespace and workload."""
    places = {
        "mesh": ("istio-system", ""),
        "namespace": ("shop", ""),
        "workload": ("shop", "selector: {matchLabels: {app: web}}"),
        "other": ("shop", "selector: {matchLabels: {app: other}}"),
        "elsewhere": ("office", ""),
    }
    text = PROVIDERS.replace("DEFAULTS", defaults)
    for name, spec in levels.items():
        namespace, selector = places[name]
        lines = "".join(f"  {line}\n" for line in (selector, *spec.splitlines()) if line)
        head = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\n"
        text += f"---\n{head}metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{lines}"
    store, told = assembled(text)
    assert told == []
    return Scope(store, Proxy.parse("sidecar~10.0.0.1~web-1.shop~d", {"NAMESPACE": "shop", "LABELS": {"app": "web"}}))


def traced(found: telemetry.Traced | None) -> tuple[str, float, list[str]] | None:
    return None if found is None else (found.provider, found.sampling, sorted(found.tags))


TRACING: dict[str, tuple[Scope, Side, tuple[str, float, list[str]] | None]] = {
    "nobody says anything": (scope("{}"), "CLIENT", None),
    "by default, as with Istio, one in a hundred": (scope("{tracing: [a]}"), "CLIENT", ("a", 1.0, [])),
    "a Telemetry without a provider traces nothing": (
        scope("{}", mesh="tracing: [{randomSamplingPercentage: 5}]"),
        "CLIENT",
        None,
    ),
    "each field by itself": (
        scope(
            "{tracing: [a]}",
            mesh="tracing: [{providers: [{name: b}], customTags: {x: {literal: {value: y}}}}]",
            namespace="tracing: [{randomSamplingPercentage: 5}]",
            workload="tracing: [{customTags: {z: {literal: {value: y}}}}]",
        ),
        "SERVER",
        ("b", 5.0, ["z"]),
    ),
    "0 is a share, too": (
        scope("{tracing: [a]}", namespace="tracing: [{randomSamplingPercentage: 0}]"),
        "SERVER",
        ("a", 0.0, []),
    ),
    "by side": (
        scope("{tracing: [a]}", mesh="tracing: [{match: {mode: SERVER}, disableSpanReporting: true}]"),
        "SERVER",
        None,
    ),
    "the other side": (
        scope("{tracing: [a]}", mesh="tracing: [{match: {mode: SERVER}, disableSpanReporting: true}]"),
        "CLIENT",
        ("a", 1.0, []),
    ),
    "off for the mesh, on for the workload": (
        scope(
            "{tracing: [a]}",
            mesh="tracing: [{disableSpanReporting: true}]",
            workload="tracing: [{disableSpanReporting: false}]",
        ),
        "CLIENT",
        ("a", 1.0, []),
    ),
    "of other workloads and namespaces nothing is taken": (
        scope(
            "{tracing: [a]}",
            other="tracing: [{providers: [{name: b}]}]",
            elsewhere="tracing: [{disableSpanReporting: true}]",
        ),
        "CLIENT",
        ("a", 1.0, []),
    ),
}


@pytest.mark.parametrize("name", TRACING)
def test_tracing(name: str) -> None:
    asked, side, wanted = TRACING[name]
    assert traced(telemetry.tracing(asked, side)) == wanted


LOGS: dict[str, tuple[Scope, Side, dict[str, str | None] | None]] = {
    "nobody says anything": (scope("{}"), "CLIENT", None),
    "by default": (scope("{accessLogging: [log-a]}"), "CLIENT", {"log-a": None}),
    "the last that names anybody says who is told": (
        scope(
            "{accessLogging: [envoy]}",
            mesh="accessLogging: [{providers: [{name: log-a}]}]",
            namespace="accessLogging: [{providers: [{name: log-b}]}]",
        ),
        "CLIENT",
        {"log-b": None},
    ),
    "two of one resource": (
        scope("{}", mesh="accessLogging: [{providers: [{name: log-a}]}, {providers: [{name: log-b}]}]"),
        "CLIENT",
        {"log-a": None, "log-b": None},
    ),
    "a filter for whoever is told anyway": (
        scope("{accessLogging: [log-a]}", namespace="accessLogging: [{filter: {expression: response.code >= 500}}]"),
        "CLIENT",
        {"log-a": "response.code >= 500"},
    ),
    "a filter stays where nothing is said of it": (
        scope(
            "{}",
            mesh="accessLogging: [{providers: [{name: log-a}], filter: {expression: response.code >= 500}}]",
            namespace="accessLogging: [{match: {mode: CLIENT}}]",
        ),
        "CLIENT",
        {"log-a": "response.code >= 500"},
    ),
    "off": (
        scope("{accessLogging: [log-a]}", workload="accessLogging: [{disabled: true}]"),
        "SERVER",
        {},
    ),
    "off and on again": (
        scope(
            "{accessLogging: [log-a]}",
            mesh="accessLogging: [{disabled: true}]",
            workload="accessLogging: [{disabled: false}]",
        ),
        "SERVER",
        {"log-a": None},
    ),
    "for one side": (
        scope("{}", mesh="accessLogging: [{providers: [{name: log-a}], match: {mode: SERVER}}]"),
        "CLIENT",
        {},
    ),
    "another for each side": (
        scope(
            "{}",
            mesh="accessLogging:\n- {providers: [{name: log-a}], match: {mode: SERVER}}\n"
            "- {providers: [{name: log-b}], match: {mode: CLIENT}}",
        ),
        "CLIENT",
        {"log-b": None},
    ),
}


@pytest.mark.parametrize("name", LOGS)
def test_logs(name: str) -> None:
    asked, side, wanted = LOGS[name]
    found = telemetry.logs(asked, side)
    said = found and {provider: one.expression if one else None for provider, one in found.items()}
    assert said == wanted if wanted else found == wanted


REMOVE = "tagOverrides: {a: {operation: REMOVE}}"


def labels(found: dict[str, telemetry.Override] | None) -> dict[str, tuple[bool, list[str]]] | None:
    return found and {name: (one.disabled, sorted(one.tags)) for name, one in found.items()}


METRICS: dict[str, tuple[Scope, Side, dict[str, tuple[bool, list[str]]] | None]] = {
    "the standard": (scope("{}"), "CLIENT", {}),
    "for nobody": (scope("{metrics: []}"), "CLIENT", None),
    "each label by itself": (
        scope(
            "{}",
            mesh=f"metrics: [{{overrides: [{{match: {{metric: REQUEST_COUNT}}, {REMOVE}}}]}}]",
            namespace="metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, "
            "tagOverrides: {b: {value: request.host}}}]}]",
        ),
        "CLIENT",
        {"requests_total": (False, ["a", "b"])},
    ),
    "one side": (
        scope("{}", mesh="metrics: [{overrides: [{match: {metric: REQUEST_SIZE, mode: SERVER}, disabled: true}]}]"),
        "SERVER",
        {"request_bytes": (True, [])},
    ),
    "the other side": (
        scope("{}", mesh="metrics: [{overrides: [{match: {metric: REQUEST_SIZE, mode: SERVER}, disabled: true}]}]"),
        "CLIENT",
        {},
    ),
    "off": (scope("{}", mesh="metrics: [{overrides: [{disabled: true}]}]"), "CLIENT", None),
    "off on the other side": (
        scope("{}", mesh="metrics: [{overrides: [{match: {mode: SERVER}, disabled: true}]}]"),
        "CLIENT",
        {},
    ),
    "off, and on again by saying anything else": (
        scope(
            "{}",
            mesh="metrics: [{overrides: [{disabled: true}]}]",
            workload=f"metrics: [{{overrides: [{{match: {{metric: RESPONSE_SIZE}}, {REMOVE}}}]}}]",
        ),
        "CLIENT",
        {"response_bytes": (False, ["a"])},
    ),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics(name: str) -> None:
    asked, side, wanted = METRICS[name]
    found = telemetry.metrics(asked, side)
    assert labels(found) == wanted if wanted else found == wanted


def test_all_metrics_are_each_of_them() -> None:
    found = telemetry.metrics(scope("{}", mesh=f"metrics: [{{overrides: [{{{REMOVE}}}]}}]"), "CLIENT")
    assert found is not None
    assert len(found) == 10 and all(sorted(one.tags) == ["a"] for one in found.values())
