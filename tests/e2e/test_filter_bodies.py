"""Bodies, trailers and the log of filters (`pymesh/filters/SPEC.md`) on a running proxy, over both versions of HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.bootstrap import bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, ours
from tests.tools.ports import free_ports
from tests.tools.wire.client import Answer, exchange, fetch, http1_connection, http2_connection
from tests.tools.wire.message import Request
from tests.tools.wire.origin import Origin, origin

SOURCE = """
import hashlib, json, time
from pymesh.filters import HttpFilter, Reply, When

def under(path):
    return (When(":path", "prefix", path),)

class Whole(HttpFilter):
    '''Sees whole bodies.'''
    when = under("/whole")
    max_body = 1000

    def on_request_body(self, request, body, ctx):
        if body == b"refuse":
            return Reply(422, b"refused\\n")
        if body == b"raise":
            raise RuntimeError("as it was told to")
        if body == b"nonsense":
            return 7
        if body == b"elsewhere":
            request.path = "/whole/elsewhere"
        if body == b"same":
            return None
        return body.upper()

    def on_response_body(self, response, body, ctx):
        response.headers["x-length"] = str(len(body))
        return body + b"!"

class Stream(HttpFilter):
    '''Flips every octet, so that what passed two of them is what came.'''
    when = under("/stream")
    FLIP = bytes(255 - octet for octet in range(256))

    def on_request_chunk(self, chunk, end, ctx):
        self.once("request", end, ctx)
        return chunk.translate(self.FLIP)

    def on_response_chunk(self, chunk, end, ctx):
        self.once("response", end, ctx)
        return chunk.translate(self.FLIP)

    def once(self, which, end, ctx):
        # The context is that of all filters of the chain.
        key = f"{which} {id(self)}"
        assert not ctx.get(key), "the end comes once"
        ctx[key] = end

class Trailers(HttpFilter):
    when = under("/trailers")

    def on_request_trailers(self, trailers, ctx):
        trailers["x-seen"] = trailers["x-sum"] + " seen"

    def on_response_trailers(self, trailers, ctx):
        trailers["x-back"] = trailers["x-seen"] + " twice"
        del trailers["x-sum"]

class Log(HttpFilter):
    when = under("/log")

    def on_request_headers(self, request, ctx):
        ctx["from"] = "the first hook"

    def on_log(self, record, ctx):
        if record.path == "/log/sleep":
            time.sleep(1)
        if record.path == "/log/raise":
            raise RuntimeError("as it was told to")
        told = {name: getattr(record, name) for name in (
            "method", "path", "authority", "status", "flags", "details", "request_bytes", "response_bytes", "upstream",
            "route", "peer",
        )}
        told["seconds"] = record.duration.total_seconds()
        told["from"] = ctx.get("from")
        told["request_id"] = ctx.request_id
        print("told", json.dumps(told), flush=True)
"""

FILTERS = ["Whole", "Stream", "Trailers", "Log"]


@dataclass(frozen=True)
class Filtered:
    """A proxy with the filters, and the versions that both sides speak."""

    proxy: Proxy
    behind: Origin
    http2: bool

    def ask(self, path: str, body: bytes = b"", *, method: str = "POST", **headers: str) -> Answer:
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return fetch(self.proxy.port, Request(method, path, "a.test", fields), body, use_http2=self.http2)

    def told(self, path: str) -> list[dict[str, Any]]:
        """What the log hook has said of a path."""
        lines = re.findall(r"^told (.*)$", self.proxy.process.output(), re.MULTILINE)
        return [record for record in map(json.loads, lines) if record["path"] == path]


def chunked(request: Request) -> Request:
    """The same for HTTP/1.1, with a body of any length."""
    return replace(request, headers=[*request.headers, ("transfer-encoding", "chunked")])


def until(holds: Callable[[], object]) -> None:
    """Waits for something that happens soon."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module", params=[(False, False), (True, True), (False, True)], ids=["1-1", "2-2", "1-2"])
def target(request: pytest.FixtureRequest) -> Iterator[Filtered]:
    use_http2, upstream_http2 = request.param
    port, admin = free_ports(2)
    kind = "type.googleapis.com/pymesh.filters.v1.PythonFilter"
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    names = ["Whole", "Stream", "Stream", "Trailers", "Log"] if not use_http2 else FILTERS
    filters: list[dict[str, Any]] = [
        {"name": f"{name.lower()}{at}", "typed_config": {"@type": kind, "class": f"m:{name}", "source": SOURCE}}
        for at, name in enumerate(names)
    ]
    filters.append({"name": "router", "typed_config": router})
    with origin(http2=upstream_http2) as behind:
        hosts = [virtual_host("all", [to_cluster("origin")])]
        listener = http_listener(port, hosts, http_filters=filters)
        config = bootstrap([listener], [cluster("origin", [behind.port], http2=upstream_http2)], admin)
        with ours(config) as proxy:
            yield Filtered(proxy, behind, use_http2)


def test_a_whole_body_is_replaced(target: Filtered) -> None:
    answer = target.ask("/whole/", b"hello")
    length = answer.header("x-length")
    assert answer.body.endswith(b"}!") and length == str(len(answer.body) - 1)
    assert answer.header("content-length") == str(len(answer.body))
    report = json.loads(answer.body[:-1])
    assert (report["length"], report["sha256"]) == (5, hashlib.sha256(b"HELLO").hexdigest())


def test_a_whole_body_may_choose_another_path(target: Filtered) -> None:
    assert json.loads(target.ask("/whole/", b"elsewhere").body[:-1])["target"] == "/whole/elsewhere"


@pytest.mark.parametrize(("body", "status"), [(b"refuse", 422), (b"raise", 500), (b"nonsense", 500), (b"same", 200)])
def test_what_a_body_hook_may_return(body: bytes, status: int, target: Filtered) -> None:
    reached = len(target.behind.requests)
    assert target.ask("/whole/", body).status == status
    assert len(target.behind.requests) - reached == (1 if status == 200 else 0)
    if body == b"nonsense":
        assert "on_request_body returns None, bytes or a Reply, not int" in target.proxy.process.output()


def test_whole_bodies_have_a_limit(target: Filtered) -> None:
    assert target.ask("/whole/", b"x" * 1000).status == 200
    assert target.ask("/whole/", b"x" * 1001).status == 413
    if (
        not target.http2
    ):  # There the rest of the request is refused by a reset, and the client of this test stops at that.
        assert target.ask("/whole/", b"x" * 5_000_000).status == 413
    assert target.ask("/whole/", method="GET", x_want_bytes="1000").status == 200
    assert target.ask("/whole/", method="GET", x_want_bytes="1001").status == 500
    assert target.ask("/whole/", method="GET", x_want_bytes="5000000").status == 500


def test_ten_megabytes_pass_as_they_stream(target: Filtered) -> None:
    pattern = hashlib.sha256(b"seed").digest() * 32
    body = b"".join(pattern[at % 32 :] + pattern[: at % 32] for at in range(10_000))
    answer = target.ask("/stream/", body, x_want_echo="1")
    assert (answer.status, len(answer.body)) == (200, len(body))
    assert answer.body == body


def test_what_streams_is_what_the_filters_have_made(target: Filtered) -> None:
    report = json.loads(_flip(target.ask("/stream/", b"hello").body, target))
    expected = _flip(b"hello", target)
    assert (report["length"], report["sha256"]) == (5, hashlib.sha256(expected).hexdigest())
    assert "content-length" not in dict(report["headers"])


def _flip(body: bytes, target: Filtered) -> bytes:
    """What one filter makes of it; two of them make nothing of it."""
    return bytes(255 - octet for octet in body) if target.http2 else body


def test_trailers_are_changed(target: Filtered) -> None:
    async def ask() -> Answer:
        fields = [("x-want-echo", "1"), ("te", "trailers"), ("trailer", "x-sum")]
        request = Request("POST", "/trailers/", "a.test", fields)
        if target.http2:
            async with http2_connection(target.proxy.port) as connection:
                stream = await connection.send(request, end=False)
                await stream.write(b"hello")
                await stream.end([("x-sum", "1")])
                return await exchange(stream, stream, "POST", b"")
        async with http1_connection(target.proxy.port) as client:
            sink = await client.send(chunked(request))
            await sink.write(b"hello")
            await sink.end([("x-sum", "1")])
            return await exchange(sink, client, "POST", b"")

    answer = asyncio.run(asyncio.wait_for(ask(), 60))
    assert answer.body == b"hello"
    assert dict(answer.trailers) == {"x-seen": "1 seen", "x-back": "1 seen twice"}


def test_what_is_over_is_told(target: Filtered) -> None:
    answer = target.ask("/log/whole", b"hello", x_request_id="7b1c9d2e-0000-4000-8000-000000000000")
    until(lambda: target.told("/log/whole"))
    (record,) = target.told("/log/whole")
    assert {name: record[name] for name in ("method", "authority", "status", "flags", "details", "from")} == {
        "method": "POST",
        "authority": "a.test",
        "status": 200,
        "flags": "-",
        "details": "via_upstream",
        "from": "the first hook",
    }
    assert (record["request_bytes"], record["response_bytes"]) == (5, len(answer.body))
    assert record["upstream"] == f"127.0.0.1:{target.behind.port}"
    assert record["seconds"] > 0
    assert record["request_id"]


def test_a_client_that_leaves_is_told(target: Filtered) -> None:
    path = "/log/leaves"

    async def leave() -> None:
        request = Request("GET", path, "a.test", [("x-want-stall", "1")])
        if target.http2:
            async with http2_connection(target.proxy.port) as connection:
                await connection.send(request, end=True)
                await asyncio.sleep(0.3)
        else:
            async with http1_connection(target.proxy.port) as client:
                sink = await client.send(request)
                await asyncio.sleep(0.3)
                # An end of what it sends would be the end of a request that is whole.
                await sink.reset()

    asyncio.run(leave())
    until(lambda: target.told(path))
    (record,) = target.told(path)
    assert "DC" in record["flags"]
    until(lambda: not target.proxy.active().get("http.ingress.downstream_rq_active"))


def test_who_leaves_in_the_middle_of_a_stream_leaves_nothing(target: Filtered) -> None:
    async def leave() -> None:
        request = Request("POST", "/stream/leaves", "a.test", [("x-want-echo", "1")])
        for _ in range(20):
            if target.http2:
                async with http2_connection(target.proxy.port) as connection:
                    stream = await connection.send(request, end=False)
                    await stream.write(b"x" * 30_000)
            else:
                async with http1_connection(target.proxy.port) as client:
                    sink = await client.send(chunked(request))
                    await sink.write(b"x" * 30_000)

    asyncio.run(leave())
    until(lambda: not target.proxy.active().get("http.ingress.downstream_rq_active"))
    assert target.ask("/stream/", b"hello", x_want_echo="1").body == b"hello"


def test_the_log_holds_nobody_up(target: Filtered) -> None:
    started = time.monotonic()
    assert target.ask("/log/sleep").status == 200
    # The hook of its end sleeps behind the answer; the next request of this worker waits for it.
    assert time.monotonic() - started < 0.9
    until(lambda: target.told("/log/sleep"))


def test_a_failure_of_the_log_concerns_nobody(target: Filtered) -> None:
    assert target.ask("/log/raise").status == 200
    until(lambda: "has failed in on_log" in target.proxy.process.output())
    name = next(name for name in target.proxy.stats() if re.fullmatch(r"python_filter\.log\d\.failures", name))
    assert target.proxy.stats()[name] == 1
    assert target.ask("/log/raise").status == 200


def test_what_a_filter_does_is_counted_by_its_name(target: Filtered) -> None:
    def counted(what: str) -> int:
        return target.proxy.stats()[f"python_filter.whole0.{what}"]

    before = {what: counted(what) for what in ("calls", "replies", "failures", "timeouts")}
    target.ask("/whole/", b"refuse")
    target.ask("/whole/", b"raise")
    target.ask("/elsewhere/", b"raise")
    after = {what: counted(what) - before[what] for what in before}
    assert after == {"calls": 2, "replies": 1, "failures": 1, "timeouts": 0}


WANTING = """
from pymesh.filters import HttpFilter
class Wanting(HttpFilter):
    wants = ("X-Key", "authorization")
    def on_request_headers(self, request, ctx):
        request.headers["x-entered"] = "yes"
    def on_response_chunk(self, chunk, end, ctx):
        return None
    def close(self):
        open(self.config["closed"], "w").close()
"""


def test_only_requests_that_have_what_is_wanted_enter_the_interpreter(tmp_path: Path) -> None:
    port, admin = free_ports(2)
    kind = "type.googleapis.com/pymesh.filters.v1.PythonFilter"
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    wanting = {"@type": kind, "class": "m:Wanting", "source": WANTING, "config": {"closed": str(tmp_path / "closed")}}
    filters = [{"name": "wanting", "typed_config": wanting}, {"name": "router", "typed_config": router}]
    with origin() as behind:
        hosts = [virtual_host("all", [to_cluster("origin")])]
        listener = http_listener(port, hosts, http_filters=filters)
        with ours(bootstrap([listener], [cluster("origin", [behind.port])], admin)) as proxy:
            for header, calls in ((("x-other", "1"), 0), (("x-key", "1"), 2), (("authorization", "me"), 2)):
                before = proxy.stats()["python_filter.wanting.calls"]
                assert fetch(port, Request("GET", "/", "a.test", [header])).status == 200
                entered = behind.requests[-1].header("x-entered")
                assert (entered == "yes") == (calls > 0)
                assert (proxy.stats()["python_filter.wanting.calls"] - before > 0) == (calls > 0)
            assert not (tmp_path / "closed").exists()
    assert (tmp_path / "closed").exists()
