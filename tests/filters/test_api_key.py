"""`examples/filters/api_key.py`."""

from __future__ import annotations

from hashlib import sha256

from tests.filters.example import deployed, harness

CONFIG = {"clients": {sha256(b"open sesame").hexdigest(): "ali", sha256(b"other").hexdigest(): "baba"}}


def test_who_has_a_key_is_let_in_and_told_to_the_upstream() -> None:
    with harness("api_key:ApiKey", CONFIG) as one:
        asked = one.request(headers={"x-api-key": "open sesame", "x-client": "somebody"}).upstream
        assert asked is not None
        assert (asked.headers.getall("x-client"), asked.headers.get("x-api-key")) == (["ali"], None)


def test_others_are_not() -> None:
    with harness("api_key:ApiKey", CONFIG) as one:
        wrong = [{}, {"x-api-key": ""}, {"x-api-key": "Open Sesame"}, {"x-api-key": "\xe9"}, {"x-client": "ali"}]
        for headers in wrong:
            refused = one.request(headers=headers)
            assert (refused.status, refused.upstream) == (401, None), headers
        twice = one.request(headers=[("x-api-key", "open sesame"), ("x-api-key", "other")])
        assert twice.status == 401


def test_in_a_proxy() -> None:
    with deployed(("api_key:ApiKey", CONFIG)) as one:
        assert one.ask().status == 401
        assert one.behind.requests == []
        assert one.ask({"x-api-key": "other"}).status == 200
        assert (one.reached("x-client"), one.reached("x-api-key")) == ("baba", None)
