"""Answers of an API server with something in them that is deeper than any decoder goes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pymesh.control.resources.load import DEEPEST
from pymesh.control.sources.kubernetes.documents import decoded


def text(levels: int, opens: str = '{"k":', closes: str = "}") -> str:
    return opens * levels + "1" + closes * levels


def depth(value: Any) -> int:
    found = 0
    while isinstance(value, dict | list):
        found, value = found + 1, next(iter(value.values() if isinstance(value, dict) else value), None)
    return found


@pytest.mark.parametrize("levels", [1100, 100_000])
@pytest.mark.parametrize(("opens", "closes"), [('{"k":', "}"), ("[", "]"), ('[{"a]}\\\\\\"[{":', "}]")])
def test_what_is_too_deep_is_cut_and_the_rest_comes_through(levels: int, opens: str, closes: str) -> None:
    beside = '{"quoted": "[[[ \\\\", "after": [1, {"x": [2]}]}'
    found = decoded(f'{{"items": [{beside}, {{"spec": {text(levels, opens, closes)}}}, {beside}]}}'.encode())
    before, deep, after = found["items"]
    assert before == after == {"quoted": "[[[ \\", "after": [1, {"x": [2]}]}
    # Enough is left for it to be refused as too deep.
    assert DEEPEST < depth(deep) < 2 * DEEPEST


def test_what_a_decoder_takes_is_not_cut() -> None:
    assert depth(decoded(text(900).encode())) == 900


@pytest.mark.parametrize("content", ["", "{", "[" * 5000, "]" * 5000, text(2000) + "}", '["' + "[" * 5000])
def test_what_is_no_json_is_none(content: str) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        decoded(content.encode())
