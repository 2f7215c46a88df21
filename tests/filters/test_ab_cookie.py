"""`examples/filters/ab_cookie.py`."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pymesh.filters.loader import FilterError
from tests.filters.example import deployed, harness

CONFIG = {"variants": {"old": 80, "new": 20}, "remembered": "1h"}


def test_variants_have_their_shares() -> None:
    random.seed(7)
    with harness("ab_cookie:AbCookie", CONFIG) as one:
        seen: Counter[str] = Counter()
        for _ in range(2000):
            exchange = one.request()
            assert exchange.upstream is not None
            seen[exchange.upstream.headers["x-variant"]] += 1
        assert seen.keys() == {"old", "new"}
        # Six standard deviations of a share of 20 % of 2,000.
        assert abs(seen["new"] - 400) < 108


def test_who_was_told_keeps_it() -> None:
    with harness("ab_cookie:AbCookie", CONFIG) as one:
        first = one.request()
        cookie = first.response.headers["set-cookie"]
        name = cookie.partition(";")[0]
        assert cookie == f"{name}; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax"
        for _ in range(50):
            again = one.request(headers={"cookie": f"theme=dark; {name}", "x-variant": "forged"})
            assert again.upstream is not None
            assert again.upstream.headers.getall("x-variant") == [name.partition("=")[2]]
            assert "set-cookie" not in again.response.headers


def test_a_variant_that_there_is_no_more_is_chosen_anew() -> None:
    with harness("ab_cookie:AbCookie", {"variants": {"only": 1}}) as one:
        for cookie in ("variant=gone", "variant", "=", "\x7f=1; variant=;;"):
            exchange = one.request(headers={"cookie": cookie})
            assert exchange.upstream is not None
            assert exchange.upstream.headers["x-variant"] == "only", cookie
            assert exchange.response.headers["set-cookie"].startswith("variant=only;")


def test_weights_must_be_some() -> None:
    with pytest.raises(FilterError, match="the weights must be positive"):
        harness("ab_cookie:AbCookie", {"variants": {"old": 0}})


def test_in_a_proxy() -> None:
    with deployed(("ab_cookie:AbCookie", CONFIG)) as one:
        first = one.ask()
        variant = one.reached("x-variant")
        assert variant in CONFIG["variants"]
        assert (first.header("set-cookie") or "").startswith(f"variant={variant};")
        again = one.ask({"cookie": f"variant={variant}"})
        assert (one.reached("x-variant"), again.header("set-cookie")) == (variant, None)
