"""Istio's outlier detection: which endpoints a proxy stops using for a while, because they failed it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, ClassVar

from pymesh.control.resources.decode import Located, Problem, Range, key, model

Failures = Annotated[int, Range(0, 2**32 - 1)]
Percent = Annotated[int, Range(0, 100)]


@model
class OutlierDetection(Located):
    """Rows of failures that eject an endpoint, and how many may be out at once."""

    REFUSED: ClassVar = {"consecutiveErrors": "set consecutive5xxErrors or consecutiveGatewayErrors"}

    #: Zero switches a row off.
    consecutive_5xx_errors: Failures | None = key("consecutive5xxErrors", default=None)
    consecutive_gateway_errors: Failures | None = None
    consecutive_local_origin_failures: Failures | None = None
    #: Timeouts and failed connections are a row of their own, and not counted as 5xx.
    split_external_local_origin_errors: bool = False
    interval: timedelta | None = None
    base_ejection_time: timedelta | None = None
    max_ejection_percent: Percent = 0
    #: With fewer healthy endpoints than this nobody's health is believed; with 0 it always is.
    min_health_percent: Percent = 0

    def problems(self) -> Iterator[Problem]:
        for name, value in (("interval", self.interval), ("baseEjectionTime", self.base_ejection_time)):
            if value is not None and value < timedelta(milliseconds=1):
                yield Problem(name, f"{name!r} must be at least 1ms", "remove it to have the default")
        if self.consecutive_local_origin_failures and not self.split_external_local_origin_errors:
            yield Problem(
                "consecutiveLocalOriginFailures",
                "local failures are not counted apart",
                "set splitExternalLocalOriginErrors: true",
            )
