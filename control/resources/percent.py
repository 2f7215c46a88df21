"""Shares of all requests."""

from __future__ import annotations

from collections.abc import Iterator

from pymesh.control.resources.decode import Located, Problem, model


@model
class Percent(Located):
    """Istio's ``Percent``."""

    value: int | float = 0

    @property
    def millionths(self) -> int:
        """The share as proxies count it: what is below a millionth is lost."""
        return round(self.value * 10_000)

    def problems(self) -> Iterator[Problem]:
        if not 0 <= self.value <= 100:
            yield Problem("value", f"{self.value} is no share", "0 to 100")
