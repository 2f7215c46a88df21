"""Conditions, as Kubernetes' API conventions have them: one of each type, with the time at which it last changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymesh.control.resources.diagnostics import Diagnostic
from pymesh.control.status.objects import Json

#: What an API server takes at most.
_LONGEST_MESSAGE = 32768


@dataclass(frozen=True, slots=True)
class Condition:
    """One statement about a resource."""

    type: str
    holds: bool
    #: A word in CamelCase.
    reason: str
    message: str = ""


def stamp(now: datetime) -> str:
    """A time as Kubernetes writes it."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merged(before: Any, wanted: Iterable[Condition], generation: int, now: datetime) -> list[dict[str, Any]]:
    """The conditions: of ``before`` those of other types stay as they are, and so do times of what is as it was."""
    known = {str(one.get("type")): one for one in before if isinstance(one, dict)} if isinstance(before, list) else {}
    made = dict(known)
    for one in wanted:
        status = "True" if one.holds else "False"
        last = known.get(one.type, {})
        since = last.get("lastTransitionTime") if last.get("status") == status else None
        made[one.type] = {
            "type": one.type,
            "status": status,
            "reason": one.reason,
            "message": one.message[:_LONGEST_MESSAGE],
            "observedGeneration": generation,
            "lastTransitionTime": since or stamp(now),
        }
    return list(made.values())


def told(findings: Sequence[Diagnostic], most: int = 10) -> str:
    """Findings as one message: each with its place and what to do."""
    lines = [f"{one.at}: {one.message}" + (f"; hint: {one.hint}" if one.hint else "") for one in findings]
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join([*lines[:most], *more])


def without_times(status: Json) -> Json:
    """A status without the times in it: whether it says something new is judged without them."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if key not in ("lastTransitionTime", "lastProbeTime")}
        return [plain(one) for one in value] if isinstance(value, list) else value

    found: Json = plain(dict(status))
    return found
