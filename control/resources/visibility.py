"""Which namespaces see a resource: ``exportTo``, as Istio's resources have it and a Service's annotation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from pymesh.control.resources.decode import Problem

#: On a Kubernetes Service: the same list, separated by commas.
ANNOTATION: Final = "networking.istio.io/exportTo"

_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


def problems(export_to: Sequence[str], field: str = "exportTo") -> Iterator[Problem]:
    """What is wrong with the list."""
    for one in export_to:
        if one not in (".", "*", "~") and not _NAMESPACE.fullmatch(one):
            yield Problem(field, f"{one!r} is no namespace", "write a namespace, '.' for this one, '*' for all")
    for alone in ("*", "~"):
        if alone in export_to and len(export_to) > 1:
            yield Problem(field, f"{alone!r} stands alone", "keep it, or the others")


def sees(namespace: str, export_to: Sequence[str], owner: str) -> bool:
    """Whether ``namespace`` sees what ``owner`` exports. An empty list is for everybody."""
    return not export_to or any(
        one == "*" or (one == "." and owner == namespace) or one == namespace for one in export_to
    )


def overlap(one: Sequence[str], owner: str, other: Sequence[str], other_owner: str) -> bool:
    """Whether some namespace sees both."""
    first, second = _named(one, owner), _named(other, other_owner)
    if first is None or second is None:
        return first != frozenset() and second != frozenset()
    return bool(first & second)


def _named(export_to: Sequence[str], owner: str) -> frozenset[str] | None:
    """The namespaces by name; None for all of them."""
    if not export_to or "*" in export_to:
        return None
    return frozenset(owner if one == "." else one for one in export_to if one != "~")
