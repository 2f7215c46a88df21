"""Our own resource: how many requests each proxy of some workloads or gateways lets pass.

Each proxy counts by itself (Istio leaves this to EnvoyFilter). Names are those of Linkerd and
Envoy Gateway where they agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import timedelta
from typing import Annotated, Any, Literal

from pymesh.control.resources.decode import Located, Problem, Range, exactly_one, model
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.python_filter import FilterTarget, LabelSelector
from pymesh.control.resources.statuses import REFUSALS
from pymesh.control.resources.traffic import HeaderMatch

_LEAST = timedelta(milliseconds=50)
_Count = Annotated[int, Range(1, 4_294_967_295)]


@model
class Limit(Located):
    """So many requests in each interval; after a pause as many as ``burst`` at once."""

    requests: _Count
    per: timedelta = timedelta(seconds=1)
    #: By default as many as ``requests``.
    burst: _Count | None = None

    def problems(self) -> Iterator[Problem]:
        if self.per < _LEAST:
            yield Problem("per", "an interval is at least 50ms", "for the same rate raise 'requests' as well")


@model
class LimitRule(Located):
    """A limit of some requests. They count against the total as well."""

    limit: Limit
    #: Which requests: all of these hold. Without it all requests.
    headers: Mapping[str, HeaderMatch] = field(default_factory=dict)
    #: Each client identity, client address or value of a header has the limit for itself.
    each: Literal["Identity", "Address", "Header"] | None = None
    header: str = ""

    def problems(self) -> Iterator[Problem]:
        if (self.each == "Header") != bool(self.header):
            yield Problem("header", "'header' names the header of 'each: Header'", "set both or none")
        if self.each is None and not self.headers:
            yield Problem("", "a rule for all requests together is the total", "write it as 'total'")


@model
class LocalRateLimitSpec(Located):
    """Whose requests, how many, and what the others are told."""

    selector: LabelSelector | None = None
    target_refs: tuple[FilterTarget, ...] = ()
    total: Limit | None = None
    rules: tuple[LimitRule, ...] = ()
    #: Each client connection has all of the limits for itself.
    per_connection: bool = False
    #: Or count only what would be refused.
    enforce: bool = True
    status: int = 429
    #: Tell clients how much is left, in ``x-ratelimit-*``.
    tell_clients: bool = True
    #: How many values of one ``each`` are told apart; who has not asked for longest is forgotten first.
    remembered: Annotated[int, Range(1, 100_000)] = 1000

    def problems(self) -> Iterator[Problem]:
        yield from exactly_one(self, "selector", "targetRefs")
        if self.total is None and not self.rules:
            yield Problem("", "a rate limit needs 'total' or 'rules'")
        if self.status not in REFUSALS:
            yield Problem("status", f"{self.status} is no status of a refusal", "429 is the usual one")


@model
class LocalRateLimit(Resource):
    """``extensions.pymesh.dev/v1alpha1`` LocalRateLimit."""

    spec: LocalRateLimitSpec
    status: Any = None
