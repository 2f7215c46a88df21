"""What is wrong with an object on its way into the cluster: at which field, what, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One finding; ``path`` is as `kubectl explain` writes it, with list indexes: ``spec.containers[0].name``."""

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" + (f"; hint: {self.hint}" if self.hint else "")


class InjectionError(Exception):
    """A pod that cannot get a sidecar, with everything that is wrong with it."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))
