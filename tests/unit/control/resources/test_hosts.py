"""Which hosts a server and a route have in common."""

import pytest

from pymesh.control.resources.hosts import intersection


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("*", "*", "*"),
        ("*", "a.b", "a.b"),
        ("a.b", "*", "a.b"),
        ("*.b", "a.b", "a.b"),
        ("x.a.b", "*.b", "x.a.b"),
        ("*.b", "*.a.b", "*.a.b"),
        ("*.b", "b", None),
        ("*.b", "a.c", None),
        ("a.b", "c.b", None),
    ],
)
def test_intersection(one: str, other: str, shared: str | None) -> None:
    assert intersection(one, other) == shared
