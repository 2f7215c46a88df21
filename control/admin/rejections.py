"""What a proxy has refused, line by line, and whose doing each of them is.

Our proxy names the resource and the path of each problem (`NAME: PATH: what`); of Envoy's text what is known is that it
mentions the resource somewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pymesh.control.xds import pb
from pymesh.control.xds.cache import Table

_PATH = re.compile(r'([a-z_]\w*(?:\.\w+|\[\d+\]|\["[^"]*"\])*): ')

#: From a message that a proxy was sent, and a path in it, to the users' resources behind.
Trace = Callable[[pb.Message, str], Sequence[dict[str, Any]]]


def traced(table: Table | None, reason: str, trace: Trace) -> list[dict[str, Any]]:
    """The problems of a refusal: the resource that was sent, what is wrong with it, and the users' resources behind."""
    resources = table.resources if table is not None else {}
    found = []
    for line in reason.splitlines():
        name, problem = _about(line, resources)
        resource = resources.get(name)
        objects: Sequence[dict[str, Any]] = ()
        if resource is not None:
            objects = trace(resource.message(), path_of(problem))
        found.append({"resource": name, "problem": problem, "objects": list(objects)})
    return found


def path_of(problem: str) -> str:
    """The path that the text of a problem begins with, if it does."""
    found = _PATH.match(problem)
    return found[1] if found else ""


def _about(line: str, resources: Any) -> tuple[str, str]:
    """The resource that a line is about, and the rest of the line; the whole line if that is not at its beginning."""
    named: list[str] = sorted((name for name in resources if name in line), key=len, reverse=True)
    for name in named:
        if line.startswith(f"{name}: "):
            return name, line[len(name) + 2 :]
    return (named[0] if named else ""), line
