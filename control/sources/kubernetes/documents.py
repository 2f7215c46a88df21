"""JSON as an API server sends it: of any depth.

A field that a definition leaves open may hold an object nested thousands deep, which no decoder of ours takes. It would
hide every other object of its kind, since they come in one answer. So what is nested deeper than anything that is read
is cut: the rest comes through, and the object is refused by itself, since it is too deep still.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from pymesh.control.resources.load import DEEPEST

#: A list, or an event of a watch, stands around its objects.
_KEPT: Final = DEEPEST + 8
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


def decoded(content: bytes | bytearray) -> Any:
    """The document. Raises ``orjson.JSONDecodeError``."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        if not _has_depth(content):
            raise
        return orjson.loads(_cut(content))


def _has_depth(content: bytes | bytearray) -> bool:
    """Whether it may be deep: cheap, for answers that are no JSON at all."""
    return content.count(b"[") + content.count(b"{") > _KEPT


def _cut(content: bytes | bytearray) -> bytes:
    """The same with `null` for whatever is nested too deeply."""
    parts, depth, begin = bytearray(), 0, 0
    for found in _TOKEN.finditer(content):
        what = content[found.start()]
        if what in b"[{":
            depth += 1
            if depth == _KEPT + 1:
                parts += content[begin : found.start()] + b"null"
                begin = len(content)
        elif what in b"]}":
            if depth == _KEPT + 1:
                begin = found.end()
            depth -= 1
    return bytes(parts + content[begin:])
