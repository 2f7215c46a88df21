"""What users are told of retries, time limits and connection pools that are wrong; and that the rest goes on."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text

RULE = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a\n"
VIRTUAL = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n"
ROUTE = (
    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\n"
    "spec:\n  parentRefs: [{name: gateway}]\n"
)

CASES = {
    "keepalive in milliseconds": (
        RULE + "  trafficPolicy: {connectionPool: {tcp: {tcpKeepalive: {time: 1500ms, interval: 0s}}}}\n",
        [
            "f.yaml:6:63: error: tcpKeepalive: the system counts these in whole seconds\n  hint: write at least 1s",
            "f.yaml:6:81: error: tcpKeepalive: the system counts these in whole seconds\n  hint: write at least 1s",
        ],
    ),
    "no time": (
        RULE + "  trafficPolicy: {connectionPool: {tcp: {connectTimeout: 0s, maxConnectionDuration: 1us}}}\n",
        [
            "f.yaml:6:58: error: tcp: 'connectTimeout' leaves no time\n"
            "  hint: give it a millisecond at least, or remove it",
            "f.yaml:6:85: error: tcp: 'maxConnectionDuration' leaves no time\n"
            "  hint: give it a millisecond at least, or remove it",
        ],
    ),
    "no connections": (
        RULE + "  trafficPolicy: {connectionPool: {tcp: {maxConnections: 0}}}\n",
        ["f.yaml:6:58: error: maxConnections: 0 is out of range\n  hint: 1 to 2147483647"],
    ),
    "client's protocol, and another": (
        RULE + "  trafficPolicy: {connectionPool: {http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}}\n",
        ["f.yaml:6:85: error: http: 'useClientProtocol' leaves nothing to upgrade\n  hint: keep one of them"],
    ),
    "more than all": (
        RULE + "  trafficPolicy: {retryBudget: {percent: 120, minRetryConcurrency: -1}}\n",
        [
            "f.yaml:6:42: error: percent: 120.0 is out of range\n  hint: 0 to 100",
            "f.yaml:6:68: error: minRetryConcurrency: -1 is out of range\n  hint: 0 to 2147483647",
        ],
    ),
    "budget over time": (
        RULE + "  subsets: [{name: v1, trafficPolicy: {retryBudget: {budgetInterval: 10s}}}]\n",
        [
            "f.yaml:6:54: error: retryBudget: 'budgetInterval' is not supported yet\n"
            "  hint: remove it: the share is one of the requests that are under way"
        ],
    ),
    "budget of a port": (
        RULE + "  trafficPolicy: {portLevelSettings: [{port: {number: 80}, retryBudget: {}}]}\n",
        [
            "f.yaml:6:60: error: portLevelSettings[0]: 'retryBudget' is not supported yet\n"
            "  hint: set trafficPolicy.retryBudget: it holds for each port by itself"
        ],
    ),
    "unknown limit": (
        RULE + "  trafficPolicy: {connectionPool: {http: {http2MaxRequest: 1}}}\n",
        ["f.yaml:6:43: error: http: unknown field 'http2MaxRequest'\n  hint: did you mean 'http2MaxRequests'?"],
    ),
    "unknown condition": (
        VIRTUAL + "  http: [{route: [{destination: {host: a}}], retries: {retryOn: 'resets,5xx'}}]\n",
        [
            "f.yaml:6:65: error: retries: 'resets' is no retry condition\n"
            "  hint: known: 5xx, cancelled, connect-failure, deadline-exceeded, envoy-ratelimited, "
            "gateway-error, internal, refused-stream, reset, reset-before-request, resource-exhausted, "
            "retriable-4xx, retriable-headers, retriable-status-codes, unavailable, or a status"
        ],
    ),
    "too many attempts": (
        VIRTUAL + "  http: [{route: [{destination: {host: a}}], retries: {attempts: 101}}]\n",
        ["f.yaml:6:66: error: attempts: 101 is out of range\n  hint: 0 to 100"],
    ),
    "localities": (
        VIRTUAL + "  http: [{route: [{destination: {host: a}}], retries: {retryRemoteLocalities: true}}]\n",
        [
            "f.yaml:6:56: error: retries: 'retryRemoteLocalities' is not supported yet\n"
            "  hint: remove it: every try chooses among all localities by their health"
        ],
    ),
    "no wait": (
        VIRTUAL + "  http: [{route: [{destination: {host: a}}], retries: {backoff: 10us}}]\n",
        [
            "f.yaml:6:65: error: retries: a wait of less than a millisecond is none\n"
            "  hint: remove it: 25ms is the default"
        ],
    ),
    "retries of a redirect": (
        VIRTUAL + "  http: [{redirect: {uri: /}, retries: {attempts: 1}, timeout: 1s}]\n",
        [
            "f.yaml:6:40: error: http[0]: 'retries' needs 'route'",
            "f.yaml:6:64: error: http[0]: 'timeout' needs 'route'",
        ],
    ),
    "status that is no error": (
        ROUTE + "  rules: [{retry: {codes: [200], attempts: 2, backoff: 0s}}]\n",
        ["f.yaml:6:28: error: codes[0]: 200 is out of range\n  hint: 400 to 599"],
    ),
    "try longer than the request": (
        ROUTE + "  rules: [{timeouts: {request: 1s, backendRequest: 2s}}]\n",
        ["f.yaml:6:52: error: timeouts: a try may not take longer than the request"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    text, wanted = CASES[case]
    report = Report()
    good = "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80}]}\n"
    resources = load_text("f.yaml", f"{text}---\n{good}", report)
    assert [str(one) for one in report.diagnostics] == wanted
    assert "good" in [one.name for one in resources]
