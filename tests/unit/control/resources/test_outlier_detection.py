"""What users are told when outlier detection is wrong: the exact text, with place and remedy."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text

RULE = (
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\n"
    "spec:\n  host: a\n  trafficPolicy:\n    outlierDetection:\n"
)

CASES = {
    "deprecated": (
        "      consecutiveErrors: 5\n",
        "f.yaml:8:7: error: outlierDetection: 'consecutiveErrors' is not supported yet\n"
        "  hint: set consecutive5xxErrors or consecutiveGatewayErrors",
    ),
    "misspelt": (
        "      consecutive5xxError: 5\n",
        "f.yaml:8:7: error: outlierDetection: unknown field 'consecutive5xxError'\n"
        "  hint: did you mean 'consecutive5xxErrors'?",
    ),
    "percent": (
        "      maxEjectionPercent: 101\n",
        "f.yaml:8:27: error: maxEjectionPercent: 101 is out of range\n  hint: 0 to 100",
    ),
    "negative": (
        "      maxEjectionPercent: -1\n",
        "f.yaml:8:27: error: maxEjectionPercent: -1 is out of range\n  hint: 0 to 100",
    ),
    "a share that is none": (
        "      minHealthPercent: 50%\n",
        "f.yaml:8:25: error: minHealthPercent: expected an integer, found a string (50%)",
    ),
    "too short": (
        "      interval: 0s\n",
        "f.yaml:8:17: error: outlierDetection: 'interval' must be at least 1ms\n  hint: remove it to have the default",
    ),
    "no duration": (
        "      baseEjectionTime: soon\n",
        "f.yaml:8:25: error: baseEjectionTime: 'soon' is not a duration\n  hint: write it as in 250ms, 10s or 1h30m",
    ),
    "not split": (
        "      consecutiveLocalOriginFailures: 5\n",
        "f.yaml:8:39: error: outlierDetection: local failures are not counted apart\n"
        "  hint: set splitExternalLocalOriginErrors: true",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    text, wanted = CASES[case]
    report = Report()
    load_text("f.yaml", RULE + text, report)
    assert [str(one) for one in report.diagnostics] == [wanted]
