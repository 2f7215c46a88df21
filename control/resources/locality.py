"""Istio's localities and warm-up: which endpoints a client prefers for where, and for how long, they are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Final, Literal

from pymesh.control.resources.decode import Located, Problem, Range, key, model

#: Which endpoints clients prefer, as Kubernetes' Services and Istio's annotation say it. PreferClose is the older name
#: of PreferSameZone.
TrafficDistribution = Literal["PreferClose", "PreferSameZone", "PreferSameNode"]
#: On a Service or a ServiceEntry: the same, where the spec has it not.
DISTRIBUTION_ANNOTATION: Final = "networking.istio.io/traffic-distribution"

Percent = Annotated[int, Range(0, 100)]


@model
class Distribute(Located):
    """Where the load of clients in one locality goes."""

    from_: str = key("from")
    to: Mapping[str, int]

    def problems(self) -> Iterator[Problem]:
        if sum(self.to.values()) != 100 or any(weight < 0 for weight in self.to.values()):
            yield Problem("to", f"the percentages make {sum(self.to.values())}", "make them 100 together")


@model
class Failover(Located):
    """The region that stands in for another."""

    from_: str = key("from")
    to: str

    def problems(self) -> Iterator[Problem]:
        if self.from_ == self.to:
            yield Problem("to", "a region cannot stand in for itself", "name another region")


@model
class LocalityLbSetting(Located):
    """Load by localities; without outlier detection nobody is seen to fail, and nothing fails over.

    As with Istio this is what holds where nothing is written.
    """

    enabled: bool = True
    distribute: tuple[Distribute, ...] = ()
    failover: tuple[Failover, ...] = ()
    failover_priority: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if self.distribute and (self.failover or self.failover_priority):
            yield Problem("distribute", "'distribute' and failover exclude each other", "keep one of them")


@model
class Warmup(Located):
    """A new endpoint begins with a part of its share."""

    duration: timedelta
    minimum_percent: Percent | None = None
    aggression: float | None = None

    def problems(self) -> Iterator[Problem]:
        if self.duration < timedelta(milliseconds=1):
            yield Problem("duration", "'duration' must be at least 1ms", "remove the warm-up to have none")
        if self.aggression is not None and self.aggression < 1.0:
            yield Problem("aggression", f"{self.aggression:g} is below 1", "1 grows evenly, more grows faster at first")
