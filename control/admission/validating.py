"""What configures the mesh is looked at on its way into the cluster, by the checks of `pymesh analyze`.

What is wrong with an object by itself keeps it out, if it is the mesh's. What is wrong with it among the others is told
as a warning: the others may be on their way, and an order in which to apply manifests is nobody's business. Where
others serve Gateways, too, it is not for us to say what they can do: what is theirs is taken, and what
may be with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pymesh.control.admission.review import Answer, Asked
from pymesh.control.analysis import coded
from pymesh.control.resources.diagnostics import Diagnostic, Report
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import load_object

#: What is found about a resource if it were among those in force.
Among = Callable[[Resource], Sequence[Diagnostic]]
#: What of an object is the mesh's, and whether that is sure; None: it is others'.
Ours = Callable[[Any], tuple[Any, bool] | None]


def whole(one: Any) -> tuple[Any, bool]:
    """Where nobody else is."""
    return one, True


def answer(asked: Asked, among: Among, ours: Ours = whole) -> Answer:
    """What becomes of the object."""
    if asked.operation not in ("CREATE", "UPDATE"):
        return Answer()
    if (asked.object.get("metadata") or {}).get("deletionTimestamp"):
        # Who takes the last finalizer away must not be held up by what is wrong otherwise.
        return Answer()
    part = ours(asked.object)
    if part is None:
        return Answer()
    own, is_sure = part
    report = Report()
    made = load_object(own, report)
    errors = [one for one in report.diagnostics if one.severity == "error"]
    if errors and is_sure:
        return Answer(refusal="\n".join(map(line, errors)))
    found = [one for one in report.diagnostics if one.severity != "info"]
    if made is not None:
        found += [one for one in among(made) if one.severity != "info"]
    return Answer(warnings=[line(one) for one in dict.fromkeys(found)])


def line(found: Diagnostic) -> str:
    """As `pymesh analyze` prints it, in one line."""
    known = coded(found)
    return f"{known.at}: [{known.code}] {known.message}" + (f"; hint: {known.hint}" if known.hint else "")
