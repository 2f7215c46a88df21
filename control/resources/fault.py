"""Faults of a VirtualService's rule: requests that are held back, and requests that are answered with a failure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, ClassVar, Final

from pymesh.control.resources.decode import Located, Problem, Range, exactly_one, model
from pymesh.control.resources.diagnostics import did_you_mean
from pymesh.control.resources.percent import Percent

#: gRPC's names of its statuses, in order of their numbers.
GRPC_STATUSES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


@model
class Delay(Located):
    """Hold requests back."""

    REFUSED: ClassVar = {"exponentialDelay": "set fixedDelay"}

    fixed_delay: timedelta
    percentage: Percent | None = None
    #: Deprecated: whole percent. ``percentage`` counts where both are there.
    percent: Annotated[int, Range(0, 100)] = 0

    def problems(self) -> Iterator[Problem]:
        if self.fixed_delay < timedelta(milliseconds=1):
            yield Problem("fixedDelay", "a delay is at least 1ms")


@model
class Abort(Located):
    """Answer requests with a failure. Without a percentage it happens to none, as with Istio."""

    REFUSED: ClassVar = {"http2Error": "set httpStatus or grpcStatus"}

    http_status: Annotated[int, Range(200, 599)] | None = None
    grpc_status: str | None = None
    percentage: Percent | None = None

    def problems(self) -> Iterator[Problem]:
        yield from exactly_one(self, "httpStatus", "grpcStatus")
        if self.grpc_status is not None and self.grpc_status not in GRPC_STATUSES:
            hint = did_you_mean(self.grpc_status, GRPC_STATUSES)
            yield Problem("grpcStatus", f"{self.grpc_status!r} is no status of gRPC", hint)


@model
class Fault(Located):
    """What happens to requests on purpose; both may happen to one."""

    delay: Delay | None = None
    abort: Abort | None = None

    def problems(self) -> Iterator[Problem]:
        if self.delay is None and self.abort is None:
            yield Problem("", "a fault needs 'delay' or 'abort'")
