"""In which pieces a body comes."""

from __future__ import annotations

import random
from collections.abc import Sequence

Split = Sequence[int] | random.Random | None
"""Sizes, the last of which is taken again until the end; chance; or None: whole."""


def pieces(body: bytes, split: Split) -> list[bytes]:
    """The body cut up: at least one piece, which may be empty, as may be the last one."""
    if split is None or (not body and not isinstance(split, random.Random)):
        return [body]
    if isinstance(split, random.Random):
        sizes = []
        left = len(body)
        while left:
            sizes.append(split.randint(1, min(left, max(1, len(body) // 2))))
            left -= sizes[-1]
        if not sizes or split.random() < 0.5:
            # The end may come by itself, when all octets have come.
            sizes.append(0)
    else:
        if min(split, default=0) < 1:
            raise ValueError(f"split={split!r}: a piece has at least one octet")
        sizes, left = [], len(body)
        while left > 0:
            sizes.append(split[min(len(sizes), len(split) - 1)])
            left -= sizes[-1]
    cut, at = [], 0
    for size in sizes:
        cut.append(body[at : at + size])
        at += size
    return cut
