"""Settings by annotations: what each type takes, and what a misfit is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Optional

import pytest

from pymesh.filters import settings


@dataclass
class Limit:
    rate: int
    burst: float = 1.5


@dataclass
class Wide:
    """One of each kind."""

    text: str = ""
    whole: int = 0
    number: float = 0.0
    truth: bool = False
    time: timedelta = timedelta()
    mode: Literal["hard", "soft", 3] = "hard"
    perhaps: str | None = None
    old_perhaps: Optional[int] = None  # noqa: UP045
    names: tuple[str, ...] = ()
    pair: tuple[str, int] = ("", 0)
    hosts: list[str] = field(default_factory=list)
    tags: frozenset[str] = frozenset()
    rates: dict[str, float] = field(default_factory=dict)
    by_name: Mapping[str, int] = field(default_factory=dict)
    limit: Limit | None = None
    limits: list[Limit] = field(default_factory=list)
    anything: Any = None


@pytest.mark.parametrize(
    ("name", "given", "made"),
    [
        ("text", "a", "a"),
        ("whole", 3, 3),
        ("whole", 3.0, 3),
        ("number", 3, 3.0),
        ("truth", True, True),
        ("time", "20ms", timedelta(milliseconds=20)),
        ("time", "1.5s", timedelta(seconds=1.5)),
        ("time", "1h30m", timedelta(minutes=90)),
        ("time", "250us", timedelta(microseconds=250)),
        ("mode", "soft", "soft"),
        ("mode", 3, 3),
        ("perhaps", None, None),
        ("perhaps", "x", "x"),
        ("old_perhaps", 7, 7),
        ("names", ["a", "b"], ("a", "b")),
        ("pair", ["a", 1], ("a", 1)),
        ("hosts", ("a",), ["a"]),
        ("tags", ["a", "a"], frozenset({"a"})),
        ("rates", {"a": 1}, {"a": 1.0}),
        ("by_name", {"a": 1.0}, {"a": 1}),
        ("limit", {"rate": 1}, Limit(1)),
        ("limits", [{"rate": 1}, {"rate": 2, "burst": 3}], [Limit(1), Limit(2, 3.0)]),
        ("anything", {"a": [1]}, {"a": [1]}),
    ],
)
def test_values_are_converted(name: str, given: Any, made: Any) -> None:
    value = getattr(settings.fill(Wide, {name: given}), name)
    assert value == made
    assert type(value) is type(made)


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        ({"text": 3}, ["wants `text` to be str, not 3"]),
        ({"whole": "3"}, ["wants `whole` to be int, not '3'"]),
        ({"whole": 3.5}, ["wants `whole` to be int, not 3.5"]),
        ({"whole": True}, ["wants `whole` to be int, not True"]),
        ({"whole": float("inf")}, ["wants `whole` to be int, not inf"]),
        ({"number": "1"}, ["wants `number` to be float, not '1'"]),
        ({"number": False}, ["wants `number` to be float, not False"]),
        ({"truth": 1}, ["wants `truth` to be bool, not 1"]),
        (
            {"time": 20},
            ['wants `time` to be timedelta, not 20\nhint: write a number and its unit: "20ms", "1s", "1m30s"'],
        ),
        (
            {"time": "20"},
            ['wants `time` to be timedelta, not \'20\'\nhint: write a number and its unit: "20ms", "1s", "1m30s"'],
        ),
        ({"time": "9999999999999d"}, ["wants `time` to be timedelta, not '9999999999999d'\nhint: it is too long"]),
        ({"mode": "medium"}, ["wants `mode` to be Literal['hard', 'soft', 3], not 'medium'"]),
        ({"mode": True}, ["wants `mode` to be Literal['hard', 'soft', 3], not True"]),
        ({"perhaps": 1}, ["wants `perhaps` to be str | None, not 1"]),
        ({"names": "ab"}, ["wants `names` to be tuple[str, ...], not 'ab'"]),
        ({"names": ["a", 2, 3]}, ["wants `names[1]` to be str, not 2", "wants `names[2]` to be str, not 3"]),
        ({"pair": ["a"]}, ["wants `pair` to be tuple[str, int], not ['a']"]),
        ({"rates": [1]}, ["wants `rates` to be dict[str, float], not [1]"]),
        ({"rates": {"a": "x"}}, ["wants `rates.a` to be float, not 'x'"]),
        ({"limit": 3}, ["wants `limit` to be Limit | None, not 3"]),
        ({"limits": [{"burst": 1}]}, ["needs the setting `limits[0].rate`\nhint: it is int"]),
        ({"limit": {"rate": 1, "brust": 2}}, ["does not know the setting `limit.brust`\nhint: it knows burst, rate"]),
    ],
)
def test_misfits_are_named(given: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(settings.SettingsError) as caught:
        settings.fill(Wide, given)
    told = [problem.replace(f"{__name__}.", "") for problem in caught.value.problems]
    assert told == problems


def test_everything_is_told_at_once() -> None:
    with pytest.raises(settings.SettingsError) as caught:
        settings.fill(Limit, {"burst": "x", "brust": 1})
    assert len(caught.value.problems) == 3


def test_what_the_class_itself_refuses_is_told() -> None:
    @dataclass
    class Positive:
        rate: int

        def __post_init__(self) -> None:
            if self.rate <= 0:
                raise ValueError("rate must be positive")

    with pytest.raises(settings.SettingsError, match="refuses its configuration: rate must be positive"):
        settings.fill(Positive, {"rate": 0})


@pytest.mark.parametrize("annotation", [bytes, int | str, complex])
def test_types_that_no_setting_can_have_are_refused(annotation: Any) -> None:
    schema = dataclass(type("Odd", (), {"__annotations__": {"value": annotation}}))
    with pytest.raises(
        settings.SettingsError, match=r"has the setting `value` of type .*\nhint: settings may be str, "
    ):
        settings.fill(schema, {"value": "x"})
