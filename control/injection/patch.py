"""What turns one JSON document into another, as a JSON patch (RFC 6902)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Operation = dict[str, Any]


def difference(old: Any, new: Any) -> list[Operation]:
    """The operations, in the order in which they are applied."""
    return list(_differences(old, new, ""))


def _differences(old: Any, new: Any, path: str) -> Iterator[Operation]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in old:
            if name not in new:
                yield {"op": "remove", "path": f"{path}/{_escaped(name)}"}
        for name, value in new.items():
            if name not in old:
                yield {"op": "add", "path": f"{path}/{_escaped(name)}", "value": value}
            else:
                yield from _differences(old[name], value, f"{path}/{_escaped(name)}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) <= len(new):
        yield from _lists(old, new, path)
    elif type(old) is not type(new) or old != new:
        yield {"op": "replace", "path": path, "value": new}


def _lists(old: list[Any], new: list[Any], path: str) -> Iterator[Operation]:
    """Injection puts in front or appends, and changes some of what was there."""
    more = len(new) - len(old)
    # Whichever end leaves more of the old elements as they are.
    in_front = sum(a == b for a, b in zip(old, new[more:], strict=True))
    behind = sum(a == b for a, b in zip(old, new[: len(old)], strict=True))
    offset = more if in_front > behind else 0
    for number, value in enumerate(new[:offset]):
        yield {"op": "add", "path": f"{path}/{number}", "value": value}
    for number, (a, b) in enumerate(zip(old, new[offset:], strict=False), start=offset):
        yield from _differences(a, b, f"{path}/{number}")
    for value in new[offset + len(old) :]:
        yield {"op": "add", "path": f"{path}/-", "value": value}


def _escaped(name: str) -> str:
    """RFC 6901, 3."""
    return name.replace("~", "~0").replace("/", "~1")
