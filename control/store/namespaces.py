"""The namespaces of a mesh by their labels: listeners choose by these whose routes they take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pymesh.control.resources.kubernetes_workloads import Namespace

#: The label that an API server gives to every namespace, and lets nobody change.
NAME_LABEL: Final = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class Namespaces:
    """What is written about namespaces. One that nothing is written about has its name, as in a folder of files."""

    written: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def labels(self, name: str) -> Mapping[str, str]:
        """Of one namespace."""
        return {**self.written.get(name, {}), NAME_LABEL: name}


def gather(written: Iterable[Namespace]) -> Namespaces:
    """Those that have labels."""
    return Namespaces({one.name: one.metadata.labels for one in written if one.metadata.labels})
