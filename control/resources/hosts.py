"""Host patterns: a whole name, ``*.suffix``, or ``*``."""

from __future__ import annotations


def is_within(host: str, pattern: str) -> bool:
    """Whether a pattern ``*.suffix`` takes a name, or a narrower pattern."""
    return pattern.startswith("*.") and host != pattern and host.endswith(pattern[1:])


def intersection(one: str, other: str) -> str | None:
    """The narrower of two host patterns if it is inside the wider one."""
    if one == other or other == "*":
        return one
    if one == "*":
        return other
    for narrow, wide in ((one, other), (other, one)):
        if wide.startswith("*.") and narrow.endswith(wide[1:]):
            return narrow
    return None
