"""`examples/filters/json_rewrite.py`."""

from __future__ import annotations

import json

from pymesh.testing import FilterHarness
from tests.filters.example import harness

CONFIG = {
    "request": {"drop": ["debug"], "rename": {"userName": "user"}, "set": {"source": "mesh"}},
    "response": {"drop": ["secret"]},
}
JSON = {"content-type": "application/json; charset=utf-8"}


def rewriting() -> FilterHarness:
    return harness("json_rewrite:JsonRewrite", CONFIG)


def test_requests_and_answers_are_rewritten_at_every_depth() -> None:
    answer = json.dumps({"items": [{"id": 1, "secret": "a"}], "secret": "b"}).encode()
    body = json.dumps({"userName": "ann", "debug": True, "inner": [{"userName": "bob", "debug": 1}]}).encode()
    with rewriting().respond(200, {"content-type": "application/problem+json"}, answer) as one:
        exchange = one.request("POST", headers=JSON, body=body)
    assert exchange.upstream is not None
    assert json.loads(exchange.upstream.body) == {"user": "ann", "inner": [{"user": "bob"}], "source": "mesh"}
    assert exchange.upstream.headers["content-length"] == str(len(exchange.upstream.body))
    assert json.loads(exchange.body) == {"items": [{"id": 1}]}
    assert exchange.response.headers["content-length"] == str(len(exchange.body))


def test_what_is_no_json_is_refused_or_left_alone() -> None:
    with rewriting().respond(200, JSON, b"not json") as one:
        refused = one.request("POST", headers=JSON, body=b"{")
        assert (refused.status, refused.upstream) == (400, None)
        assert one.request("POST", headers={"content-type": "text/plain"}, body=b"{").body == b"not json"
    with rewriting().respond(200, {**JSON, "content-encoding": "gzip"}, b"\x1f\x8b") as one:
        assert one.request().body == b"\x1f\x8b"


def test_a_long_body_is_refused() -> None:
    with rewriting() as one:
        assert one.request("POST", headers=JSON, body=b" " * (256 * 1024 + 1)).status == 413
