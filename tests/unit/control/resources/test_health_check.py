"""What users are told when a HealthCheckPolicy is wrong: the exact text, with place and remedy."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, assemble

POLICY = (
    "apiVersion: extensions.pymesh.dev/v1alpha1\nkind: HealthCheckPolicy\nmetadata: {name: a}\nspec:\n"
    "  targetRefs: [{kind: Service, name: reviews}]\n"
)
SERVICE = "---\napiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec: {ports: [{name: http, port: 80}]}\n"

CASES = {
    "nothing to ask": (
        POLICY,
        ["f.yaml:5:3: error: spec: one of 'http', 'tcp', 'grpc' is needed"],
    ),
    "two things": (
        POLICY + "  http: {path: /}\n  grpc: {}\n",
        ["f.yaml:7:9: error: spec: 'http' and 'grpc' exclude each other\n  hint: keep one of them"],
    ),
    "no path": (
        POLICY + "  http: {path: healthz}\n",
        ["f.yaml:6:16: error: http: 'healthz' is not a path\n  hint: begin it with '/'"],
    ),
    "no status": (
        POLICY + "  http: {path: /, expectedStatuses: [200, 600]}\n",
        ["f.yaml:6:43: error: expectedStatuses[1]: 600 is out of range\n  hint: 100 to 599"],
    ),
    "sent in vain": (
        POLICY + "  tcp: {send: hello}\n",
        ["f.yaml:6:15: error: tcp: nothing is sent where no answer is wanted\n  hint: add receive, or remove it"],
    ),
    "no time": (
        POLICY + "  timeout: 0s\n  tcp: {}\n",
        ["f.yaml:6:12: error: spec: 'timeout' must be at least 1ms"],
    ),
    "threshold": (
        POLICY + "  unhealthyThreshold: 0\n  tcp: {}\n",
        ["f.yaml:6:23: error: unhealthyThreshold: 0 is out of range\n  hint: 1 to 1000"],
    ),
    "another mesh's field": (
        POLICY + "  healthyPanicThreshold: 50\n  tcp: {}\n",
        [
            "f.yaml:6:3: error: spec: 'healthyPanicThreshold' is not supported yet\n"
            "  hint: set outlierDetection.minHealthPercent in a DestinationRule"
        ],
    ),
    "kind in another group": (
        POLICY.replace("kind: Service", "kind: Hostname") + "  tcp: {}\n",
        [
            "f.yaml:5:23: error: targetRefs[0]: there is no Hostname in group ''\n"
            "  hint: write group: 'networking.istio.io'"
        ],
    ),
    "no such service": (
        POLICY.replace("name: reviews", "name: review") + "  tcp: {}\n" + SERVICE,
        [
            "f.yaml:5:38: warning: there is no service 'review': nothing is selected by it\n"
            "  hint: did you mean 'reviews'?"
        ],
    ),
    "no such port": (
        POLICY.replace("name: reviews", "name: reviews, sectionName: htp") + "  tcp: {}\n" + SERVICE,
        [
            "f.yaml:5:60: warning: 'reviews.default.svc.cluster.local' has no port 'htp': nothing is selected by it\n"
            "  hint: did you mean 'http'?"
        ],
    ),
    "two policies": (
        POLICY + "  tcp: {}\n---\n" + POLICY.replace("{name: a}", "{name: b}") + "  tcp: {}\n" + SERVICE,
        [
            "f.yaml:12:38: error: 'reviews.default.svc.cluster.local' has two HealthCheckPolicies\n"
            "  hint: change the one at f.yaml:1:1, or name different ports with sectionName"
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    text, wanted = CASES[case]
    report = Report()
    resources = load_text("f.yaml", text, report)
    if not report.diagnostics:
        assemble(resources, MeshOptions(), report)
    assert [str(one) for one in report.diagnostics] == wanted
