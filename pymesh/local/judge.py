"""Whether what came back is what a scenario expects. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pymesh.local.http import Answer
from pymesh.local.scenario import Expectation, percent

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Received:
    """What came of one request."""

    #: None: no answer.
    answer: Answer | None
    seconds: float = 0.0
    #: Why there is no answer.
    failure: str = ""
    #: Names in the server's certificate.
    certificate: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an expectation holds, and what was seen in any case."""

    holds: bool
    seen: str


def of_answers(wanted: Expectation, received: Sequence[Received]) -> Verdict:
    """Judge the answers of a step."""
    values = [_value(wanted, one) for one in received]
    name = {"header": wanted.header, "json": wanted.json}.get(wanted.subject) or wanted.subject
    if wanted.distinct is not None:
        different = Counter(_shown(value) for value in values if value is not _MISSING)
        return Verdict(len(different) == wanted.distinct, f"{name}: {len(different)} different: {_counted(different)}")
    fitting = sum(_fits(wanted, value) for value in values)
    share = fitting / max(len(values), 1)
    if wanted.share is not None:
        asked = percent(wanted.share)
        # Four standard deviations of a fair draw; none at the ends, where the split is exact.
        holds = abs(share - asked) <= 4 * (asked * (1 - asked) / max(len(values), 1)) ** 0.5
    elif wanted.at_least is not None or wanted.at_most is not None:
        holds = share >= percent(str(wanted.at_least or "0%")) and share <= percent(str(wanted.at_most or "100%"))
    else:
        holds = fitting == len(values)
    seen = Counter(_shown(value) for value in values)
    return Verdict(holds, f"{name}: {_counted(seen)}")


def of_count(wanted: Expectation, count: int) -> Verdict:
    """Judge a number that a proxy has counted or logged."""
    holds = all(
        (
            wanted.equals is None or count == wanted.equals,
            not isinstance(wanted.at_least, int) or count >= wanted.at_least,
            not isinstance(wanted.at_most, int) or count <= wanted.at_most,
        )
    )
    name = wanted.stat or wanted.metric
    what = f"{name} of {wanted.of}" if name else f"lines of {wanted.of} with {wanted.log}"
    return Verdict(holds, f"{what}: {count}")


def _value(wanted: Expectation, one: Received) -> Any:
    """What the expectation looks at in an answer."""
    if wanted.subject == "seconds":
        return one.seconds
    if one.answer is None:
        return 0 if wanted.subject == "status" else _MISSING
    if wanted.subject == "status":
        return one.answer.status
    if wanted.subject == "certificate":
        return sorted(one.certificate)
    if wanted.header is not None:
        return one.answer.headers.get(wanted.header.lower(), _MISSING)
    if wanted.json is not None:
        return _walk(one.answer.body, wanted.json)
    return one.answer.body.decode(errors="replace")


def _fits(wanted: Expectation, value: Any) -> bool:
    if wanted.absent:
        return value is _MISSING
    if value is _MISSING:
        return False
    if wanted.matches is not None and not re.search(wanted.matches, _shown(value)):
        return False
    if wanted.equals is not None and _shown(value) != str(wanted.equals):
        return False
    match wanted.subject:
        case "status":
            return bool(value == wanted.status)
        case "certificate":
            return wanted.certificate in value
        case "seconds":
            return bool(value >= (wanted.seconds or 0.0))
        case "body":
            return (wanted.body or "") in value
    return True


def _walk(body: bytes, path: str) -> Any:
    try:
        value = json.loads(body)
        for part in path.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
    except (ValueError, KeyError, IndexError, TypeError):
        return _MISSING
    return value


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "absent"
    if isinstance(value, float):
        return f"{value:.1f}"
    return value if isinstance(value, str) else json.dumps(value)


def _counted(values: Counter[str]) -> str:
    shown = [f"{value[:60]!s} x {count}" for value, count in values.most_common(6)]
    return ", ".join(shown) + (", ..." if len(values) > 6 else "") or "nothing"
