"""Which PeerAuthentication counts for a port of a workload, and what is wrong with one."""

from __future__ import annotations

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, Store, assemble


def policy(name: str, namespace: str, spec: str) -> str:
    return (
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )


def store(*policies: str) -> Store:
    report = Report()
    made = assemble(load_text("f", "".join(policies), report), MeshOptions(), report)
    assert not report.failed, report.diagnostics
    return made


MESH = policy("mesh", "istio-system", "mtls: {mode: PERMISSIVE}")
NAMESPACE = policy("all", "shop", "mtls: {mode: DISABLE}")
WEB = policy("web", "shop", "selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}")
PORTS = "selector: {matchLabels: {app: web}}, portLevelMtls: {80: {mode: PERMISSIVE}, 81: {mode: UNSET}}"


@pytest.mark.parametrize(
    ("policies", "labels", "port", "mode"),
    [
        ([], {"app": "web"}, 80, "STRICT"),
        ([MESH], {"app": "web"}, 80, "PERMISSIVE"),
        ([MESH, NAMESPACE], {"app": "web"}, 80, "DISABLE"),
        ([MESH, NAMESPACE, WEB], {"app": "web"}, 80, "STRICT"),
        ([MESH, NAMESPACE, WEB], {"app": "api"}, 80, "DISABLE"),
        ([NAMESPACE, policy("web", "shop", PORTS)], {"app": "web"}, 80, "PERMISSIVE"),
        ([NAMESPACE, policy("web", "shop", PORTS)], {"app": "web"}, 81, "DISABLE"),
        ([NAMESPACE, policy("web", "shop", PORTS)], {"app": "web"}, 82, "DISABLE"),
        ([policy("web", "other", PORTS)], {"app": "web"}, 80, "STRICT"),
        ([MESH, policy("all", "shop", "mtls: {mode: UNSET}")], {}, 80, "PERMISSIVE"),
        # In the root namespace, too, who is selected is selected there.
        ([policy("web", "istio-system", "selector: {matchLabels: {app: web}}, mtls: {mode: DISABLE}")],
         {"app": "web"}, 80, "STRICT"),
    ],
)  # fmt: skip
def test_the_closest_policy_that_says_something_counts(
    policies: list[str], labels: dict[str, str], port: int, mode: str
) -> None:
    assert store(*policies).peers.mode("shop", labels, port) == mode


def test_of_two_for_the_same_the_older_one_counts_and_the_other_is_told() -> None:
    report = Report()
    made = assemble(
        load_text("f", policy("a", "shop", "mtls: {mode: DISABLE}") + policy("b", "shop", ""), report),
        MeshOptions(),
        report,
    )
    assert made.peers.mode("shop", {}, 80) == "DISABLE"
    assert [str(one) for one in report.diagnostics] == [
        "f:9:18: warning: PeerAuthentication shop/b has no effect: PeerAuthentication shop/a is older and for the same"
        " workloads\n  hint: remove one of them; the other is at f:2:1"
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mtls: {mode: LAX}",
         "5:21: error: mode: 'LAX' is not supported\n  hint: known: DISABLE, PERMISSIVE, STRICT, UNSET"),
        ("portLevelMtls: {80: {mode: STRICT}}",
         "5:23: error: spec: ports belong to workloads, and none is selected\n  hint: add selector.matchLabels"),
        ("selector: {matchLabels: {a: b}}, portLevelMtls: {http: {}}",
         "5:56: error: spec: 'http' is not a port\n  hint: write the number of the workload's port"),
        ("selector: {matchLabels: {app: 'we*'}}",
         "5:32: error: selector: app: we* has a wildcard\n  hint: name the label's value"),
        ("mtls: {mode: STRICT}, targetRef: {}", "5:30: error: spec: unknown field 'targetRef'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place_and_remedy(spec: str, message: str) -> None:
    report = Report()
    load_text("f", policy("a", "shop", spec), report)
    assert message in "\n".join(str(one) for one in report.diagnostics)
