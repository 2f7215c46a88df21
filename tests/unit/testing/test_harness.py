"""The harness where no proxy judges it: pieces, async hooks on a clock of their own, stubs, life, what it refuses."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import pytest

from pymesh.filters import Answer, CallError, Context, HttpFilter, LogRecord, Reply, Request, Response
from pymesh.filters.loader import FilterError
from pymesh.testing import Answered, Asked, Call, FilterHarness
from pymesh.testing.pieces import pieces


@dataclass
class Settings:
    word: str
    mask: str = "*"


class Redact(HttpFilter[Settings]):
    """Masks a word in a request's body, wherever its pieces are cut."""

    Config = Settings

    def on_request_headers(self, request: Request, ctx: Context) -> None:
        ctx["rest"] = b""

    def on_request_chunk(self, chunk: bytes, end: bool, ctx: Context) -> bytes:
        word = self.config.word.encode()
        seen = (ctx["rest"] + chunk).replace(word, self.config.mask.encode() * len(word))
        kept = 0 if end else min(len(word) - 1, len(seen))
        ctx["rest"] = seen[len(seen) - kept :]
        return bytes(seen[: len(seen) - kept])


@pytest.mark.parametrize("seed", range(50))
def test_pieces_do_not_matter(seed: int) -> None:
    harness = FilterHarness(Redact, {"word": "secret"})
    done = harness.request("POST", body=b"a secret is a secret", split=random.Random(seed))
    assert done.upstream is not None
    assert done.upstream.body == b"a ****** is a ******"
    assert "content-length" not in done.upstream.headers


@pytest.mark.parametrize(
    ("body", "split", "cut"),
    [
        (b"abcdef", [1, 2], [b"a", b"bc", b"de", b"f"]),
        (b"abc", [9], [b"abc"]),
        (b"abc", None, [b"abc"]),
        (b"", [1], [b""]),
    ],
)
def test_pieces_of_given_sizes(body: bytes, split: list[int] | None, cut: list[bytes]) -> None:
    assert pieces(body, split) == cut


def test_pieces_by_chance_are_the_body() -> None:
    cuts = [pieces(b"0123456789", random.Random(seed)) for seed in range(200)]
    assert {b"".join(cut) for cut in cuts} == {b"0123456789"}
    assert {cut[-1] == b"" for cut in cuts} == {True, False}
    assert len({tuple(cut) for cut in cuts}) > 50


class Slow(HttpFilter[dict[str, Any]]):
    lane = "async"

    async def on_request_headers(self, request: Request, ctx: Context) -> None:
        before = ctx.deadline
        await asyncio.sleep(float(request.headers["x-wait"]))
        assert before is not None and ctx.deadline is not None
        request.headers["x-left"] = f"{before:.1f} {ctx.deadline:.1f}"


def test_time_passes_without_waiting() -> None:
    begun = time.monotonic()
    harness = FilterHarness(Slow, timeout=3600)
    done = harness.request(headers={"x-wait": "3000"})
    assert done.upstream is not None
    assert done.upstream.headers["x-left"] == "3600.0 600.0"
    late = harness.request(headers={"x-wait": "4000"})
    assert (late.status, late.flags, late.details) == (500, "UAEX", "filter_failed")
    assert late.failures[0].error == "TimeoutError: the hook took longer than 3600000 ms"
    assert time.monotonic() - begun < 600


def test_the_time_of_an_async_hook_is_that_of_a_mesh() -> None:
    assert FilterHarness(Slow).request(headers={"x-wait": "0.09"}).status == 200
    assert FilterHarness(Slow).request(headers={"x-wait": "0.11"}).status == 500
    assert FilterHarness(Slow, failure_policy="OPEN").request(headers={"x-wait": "9"}).status == 200


class Asks(HttpFilter[dict[str, Any]]):
    lane = "async"

    async def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
        try:
            answer = await ctx.call("auth:9000", "POST", "/check", {"x-token": "t"}, b"who", timeout=0.05)
        except CallError as error:
            return Reply(503, f"{error.reason} {error.flags}".encode())
        request.headers["x-user"] = answer.body.decode()
        return None if answer.status == 200 else Reply(answer.status)


async def late(_: Call) -> bytes:
    await asyncio.sleep(1)
    return b"late"


@pytest.mark.parametrize(
    ("stub", "status", "body"),
    [
        (b"anna", 200, b""),
        (Answer(403, {}, b""), 403, b""),
        (lambda call: call.body + b"!", 200, b""),
        (late, 503, b"timeout UT"),
        (CallError("no healthy upstream", "UH"), 503, b"no healthy upstream UH"),
    ],
)
def test_calls_are_answered_by_stubs(stub: Any, status: int, body: bytes) -> None:
    harness = FilterHarness(Asks, calls={"auth:9000": stub})
    done = harness.request()
    assert (done.status, done.body) == (status, body)
    assert harness.calls == [Call("auth:9000", "POST", "/check", {"x-token": "t"}, b"who")]


def test_a_cluster_that_nobody_plays() -> None:
    assert FilterHarness(Asks).request().body == b"there is no cluster `auth:9000` NC"


def test_calls_are_for_the_async_lane() -> None:
    class Inline(HttpFilter[None]):
        def on_request_headers(self, request: Request, ctx: Context) -> None:
            ctx.call("a", "GET", "/").send(None)

    assert "lane" in FilterHarness(Inline).request().failures[0].error


def test_a_hook_that_waits_for_nobody_is_found() -> None:
    class Forever(HttpFilter[None]):
        lane = "async"

        async def setup(self) -> None:
            await asyncio.get_running_loop().create_future()

    with pytest.raises(FilterError, match="waits for something that nobody does"):
        FilterHarness(Forever)


def test_an_upstream_that_is_a_function() -> None:
    def upstream(asked: Asked) -> Answered:
        return Answered(201, {"x-path": asked.path}, asked.body[::-1], {"x-sum": "1"})

    class Trailers(HttpFilter[None]):
        def on_response_trailers(self, trailers: Any, ctx: Context) -> None:
            trailers["x-sum"] = trailers["x-sum"] + "2"

    done = FilterHarness(Trailers, upstream=upstream).request("PUT", "/a", body=b"abc")
    assert (done.status, done.response.headers["x-path"], done.body) == (201, "/a", b"cba")
    assert done.response.trailers["x-sum"] == "12"


def test_a_body_that_is_replaced_is_measured_anew() -> None:
    class Upper(HttpFilter[None]):
        max_body = 5

        def on_request_body(self, request: Request, body: bytes, ctx: Context) -> bytes:
            return body.upper() * 2

        def on_response_body(self, response: Response, body: bytes, ctx: Context) -> bytes:
            return body + b"!"

    harness = FilterHarness(Upper).respond(200, body=b"fine")
    done = harness.request("POST", body=b"abc")
    assert done.upstream is not None
    assert (done.upstream.body, done.upstream.headers["content-length"]) == (b"ABCABC", "6")
    assert (done.body, done.response.headers["content-length"]) == (b"fine!", "5")
    assert harness.request("POST", body=b"too long").details == "request_payload_too_large"
    assert harness.respond(200, body=b"too long").request("POST").details == "response_payload_too_large"


def test_the_log_is_told_of_every_end() -> None:
    records: list[LogRecord] = []

    class Logs(HttpFilter[None]):
        def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
            return Reply(403) if request.path == "/no" else None

        def on_log(self, record: LogRecord, ctx: Context) -> None:
            records.append(record)
            raise RuntimeError("as it was told to")

    harness = FilterHarness(Logs)
    assert harness.request(path="/no").status == 403
    done = harness.request(path="/yes")
    assert [(one.path, one.status, one.details) for one in records] == [
        ("/no", 403, "filter_reply"),
        ("/yes", 200, "via_upstream"),
    ]
    # Nobody's answer waits for a log.
    assert (done.status, len(done.failures)) == (200, 1)


def test_life() -> None:
    events: list[str] = []

    class Lives(HttpFilter[None]):
        lane = "async"

        async def setup(self) -> None:
            await asyncio.sleep(5)
            events.append("setup")

        def close(self) -> None:
            events.append("close")

    with FilterHarness(Lives) as harness:
        assert harness.request().status == 200
    assert events == ["setup", "close"]


@pytest.mark.parametrize(
    ("config", "said"),
    [({}, "needs the setting `word`"), ({"word": 1}, "word"), ({"word": "a", "wrod": "b"}, "wrod")],
)
def test_configuration_that_the_proxy_would_refuse(config: dict[str, Any], said: str) -> None:
    with pytest.raises(FilterError, match=said):
        FilterHarness(Redact, config)
