"""`examples/filters/redact.py`."""

from __future__ import annotations

import random

import pytest

from pymesh.filters.loader import FilterError
from tests.filters.example import harness

WORDS = ["hunter2", "hunt", "secret"]
TEXT = b"the secret of hunter2 is to hunt; a hunter has no secrets, nor hunter"
CLEAN = b"the ****** of ******* is to ****; a ****er has no ******s, nor ****er"


def test_words_are_blotted_out_wherever_the_body_is_cut() -> None:
    with harness("redact:Redact", {"words": WORDS}) as one:
        for at in range(1, len(TEXT)):
            one.respond(200, {}, TEXT, split=[at, len(TEXT) - at])
            assert one.request().body == CLEAN, at
        one.respond(200, {}, TEXT, split=[1] * len(TEXT))
        assert one.request().body == CLEAN


@pytest.mark.parametrize("seed", range(20))
def test_pieces_make_no_difference(seed: int) -> None:
    """Words that overlap, begin alike and contain each other, over three letters."""
    chance = random.Random(seed)

    def some(letters: str, longest: int) -> str:
        return "".join(chance.choice(letters) for _ in range(chance.randint(1, longest)))

    words = sorted({some("ab", 5) for _ in range(chance.randint(1, 4))})
    with harness("redact:Redact", {"words": words}) as one:
        for _ in range(50):
            text = some("abc", 40).encode()
            whole = one.respond(200, {}, text).request().body
            assert one.respond(200, {}, text, split=chance).request().body == whole
            assert not any(word.encode() in whole for word in words)


def test_a_stream_is_not_held_up() -> None:
    with harness("redact:Redact", {"words": WORDS}) as one:
        passed, left = one.filter.scan(b"nothing to hide, hun", False)  # type: ignore[attr-defined]
        assert (passed, left) == (b"nothing to hide, ", b"hun")


def test_the_upstream_is_asked_for_plain_text() -> None:
    with harness("redact:Redact", {"words": WORDS}) as one:
        asked = one.request(headers={"accept-encoding": "gzip, br"}).upstream
        assert asked is not None
        assert asked.headers.getall("accept-encoding") == ["identity"]


@pytest.mark.parametrize("config", [{"words": []}, {"words": [""]}, {"words": ["a"], "blot": "**"}])
def test_settings_that_make_no_sense(config: dict[str, object]) -> None:
    with pytest.raises(FilterError):
        harness("redact:Redact", config)
