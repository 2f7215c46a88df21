"""A case in the harness."""

from __future__ import annotations

import contextlib
import io

from pymesh.simulated.messages import Answered, Asked
from pymesh.testing import FilterHarness
from tests.contract.case import Case, Lane, Outcome


def run(case: Case, lane: Lane = "inline") -> Outcome:
    """What comes of it."""

    def upstream(_: Asked) -> Answered:
        return case.answer

    harness = FilterHarness.from_source(
        "probe:Probe",
        case.source(lane),
        case.config,
        upstream=upstream,
        timeout=case.timeout,
        failure_policy=case.policy,
    )
    output = io.StringIO()
    with harness, contextlib.redirect_stderr(output):
        asked = case.request
        done = harness.request(
            asked.method,
            asked.path,
            headers=asked.headers,
            body=asked.body,
            trailers=asked.trailers,
            split=case.split or None,
            authority=asked.authority,
        )
    return Outcome(
        upstream=done.upstream,
        client=done.response,
        flags=done.flags,
        details=done.details,
        route=None,
        failures=len(done.failures),
        entered=done.entered,
        output=output.getvalue(),
    )
