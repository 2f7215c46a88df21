"""What is said of wrong locality settings and warm-ups, with place and remedy."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text

RULE = (
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\n"
    "spec:\n  host: a\n  trafficPolicy:\n    loadBalancer:\n"
)
LOCALITY = RULE + "      localityLbSetting:\n"

CASES = {
    "percentages": (
        LOCALITY + "        distribute: [{from: eu/*, to: {eu/*: 80, us/*: 10}}]\n",
        "the percentages make 90\n  hint: make them 100 together",
    ),
    "both": (
        LOCALITY + "        distribute: [{from: eu/*, to: {eu/*: 100}}]\n        failover: [{from: eu, to: us}]\n",
        "'distribute' and failover exclude each other\n  hint: keep one of them",
    ),
    "itself": (
        LOCALITY + "        failover: [{from: eu, to: eu}]\n",
        "a region cannot stand in for itself\n  hint: name another region",
    ),
    "two warm-ups": (
        RULE + "      warmup: {duration: 1s}\n      warmupDurationSecs: 1s\n",
        "'warmup' and 'warmupDurationSecs' exclude each other\n  hint: keep 'warmup'",
    ),
    "random": (
        RULE + "      simple: RANDOM\n      warmup: {duration: 1s}\n",
        "RANDOM knows no warm-up\n  hint: use simple: ROUND_ROBIN or LEAST_REQUEST",
    ),
    "no time": (
        RULE + "      warmup: {duration: 0s}\n",
        "'duration' must be at least 1ms\n  hint: remove the warm-up to have none",
    ),
    "backwards": (
        RULE + "      warmup: {duration: 1s, aggression: 0.5}\n",
        "0.5 is below 1\n  hint: 1 grows evenly, more grows faster at first",
    ),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_what_is_wrong_is_said(text: str, expected: str) -> None:
    report = Report()
    load_text("f.yaml", text, report)
    (said,) = map(str, report.diagnostics)
    assert said.startswith("f.yaml:") and said.endswith(expected), said
