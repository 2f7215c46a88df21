"""Shares of a sticky route: their sum never changes, so that a change of weights moves no more clients than it must."""

import pytest

from pymesh.control.translate.sticky import WHOLE, parts


@pytest.mark.parametrize("weights", [[1], [1, 1], [9, 1], [95, 5], [1, 1, 1], [0, 7, 0, 13], [10**6, 1, 10**6]])
def test_parts_add_up_and_follow_the_weights(weights: list[int]) -> None:
    found = parts(weights)
    assert sum(found) == WHOLE
    for weight, part in zip(weights, found, strict=True):
        assert abs(part - WHOLE * weight / sum(weights)) <= 1
        assert weight or not part


@pytest.mark.parametrize(
    ("before", "after", "share"), [([100, 0], [95, 5], 0.05), ([95, 5], [1, 1], 0.45), ([3, 1], [1, 3], 0.5)]
)
def test_only_the_needed_share_moves(before: list[int], after: list[int], share: float) -> None:
    old, new = _owners(parts(before)), _owners(parts(after))
    moved = sum(a != b for a, b in zip(old, new, strict=True))
    assert moved == WHOLE * share


def _owners(shares: list[int]) -> list[int]:
    """Who serves each number."""
    return [at for at, share in enumerate(shares) for _ in range(share)]
