"""`ctx.call`: a filter asks a cluster through the mesh, on a running proxy."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.proxy.bootstrap import bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, ours
from tests.tools.ports import free_ports
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import Origin, origin

SOURCE = """
import asyncio, json, time
from pymesh.filters import CallError, HttpFilter, Reply

class Asking(HttpFilter):
    lane = "async"

    async def setup(self):
        await asyncio.sleep(0)
        self.is_set_up = True

    async def on_request_headers(self, request, ctx):
        assert self.is_set_up
        how = json.loads(request.headers["x-ask"])
        how["body"] = how.get("body", "").encode()
        times = how.pop("times", 1)
        before = ctx.deadline
        try:
            answers = await asyncio.gather(*(ctx.call(**how) for _ in range(times)))
        except CallError as error:
            return Reply(502, json.dumps({"reason": error.reason, "flags": error.flags}).encode())
        except ValueError as error:
            return Reply(400, str(error).encode())
        assert before > ctx.deadline > 0
        told = [{"status": a.status, "headers": dict(a.headers), "body": a.body.decode("latin-1")} for a in answers]
        return Reply(200, json.dumps(told).encode(), {"x-request": ctx.request_id})

class Plain(HttpFilter):
    lane = "async"

    def on_request_headers(self, request, ctx):
        answer = asyncio.run(ctx.call("asked", "GET", "/from-a-thread"))
        request.headers["x-asked"] = str(answer.status)

class Inline(HttpFilter):
    def on_request_headers(self, request, ctx):
        assert ctx.deadline is None
        ctx.call("asked", "GET", "/")
"""
SERVICE = "outbound|9080||reviews.shop.svc.cluster.local"


@dataclass(frozen=True)
class Asked:
    """A proxy whose filters ask `behind`."""

    proxy: Proxy
    behind: Origin

    def ask(self, **how: Any) -> Any:
        """What the filter has been told."""
        question = {"cluster": "asked", "method": "GET", "path": "/", **how}
        answer = fetch(self.proxy.port, Request("GET", "/", "a.test", [("x-ask", json.dumps(question))]))
        if answer.status == 400:
            return answer.body.decode()
        assert answer.status in (200, 502), (answer, self.proxy.process.tail())
        return json.loads(answer.body)


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    *ports, admin = free_ports(4)
    with origin() as behind, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and nobody listens
        hosts = [virtual_host("all", [to_cluster("asked")])]
        kinds = ["Asking", "Plain", "Inline"]
        python = {"@type": "type.googleapis.com/pymesh.filters.v1.PythonFilter", "source": SOURCE, "timeout": "60s"}
        router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
        listeners = [
            http_listener(
                port,
                hosts,
                name=kind,
                http_filters=[
                    {"name": kind, "typed_config": {**python, "class": f"asking:{kind}"}},
                    {"name": "router", "typed_config": router},
                ],
            )
            for port, kind in zip(ports, kinds, strict=True)
        ]
        clusters = [cluster(name, [behind.port]) for name in ("asked", SERVICE)]
        clusters += [cluster("deaf", [deaf.getsockname()[1]]), cluster("empty", [])]
        config = bootstrap(listeners, clusters, admin)
        config["node"]["metadata"] = {"NAMESPACE": "shop", "WORKLOAD_NAME": "front"}
        with ours(config) as proxy:
            yield Asked(proxy, behind)


def test_an_answer_is_told_whole(asked: Asked) -> None:
    headers = {"x-want-status": "207", "x-want-echo": "1", "x-want-header": "x-twice=1", "x-mine": "yes"}
    [told] = asked.ask(method="POST", path="/there?a=b", headers=headers, body="hello")
    assert (told["status"], told["body"], told["headers"]["x-twice"]) == (207, "hello", "1")
    sent = asked.behind.requests[-1]
    assert (sent.method, sent.target, sent.header("x-mine")) == ("POST", "/there?a=b", "yes")
    assert sent.authority == "asked"
    assert asked.proxy.stats()["cluster.asked.upstream_rq_total"] >= 1


@pytest.mark.parametrize("name", ["reviews:9080", "reviews.shop:9080", "reviews.shop.svc.cluster.local:9080", SERVICE])
def test_a_service_is_found_by_host_and_port(asked: Asked, name: str) -> None:
    before = len(asked.behind.requests)
    assert asked.ask(cluster=name)[0]["status"] == 200
    assert len(asked.behind.requests) == before + 1


def test_several_may_be_asked_at_once(asked: Asked) -> None:
    assert [told["status"] for told in asked.ask(times=20)] == [200] * 20
    failure = asked.ask(times=65, headers={"x-want-delay": "1"})
    assert failure["reason"].startswith("this hook waits for 64 answers already")


@pytest.mark.parametrize(
    ("how", "reason", "flags"),
    [
        ({"cluster": "nobody"}, "there is no cluster `nobody`; known are asked, deaf, empty, outbound|9080||", ""),
        ({"cluster": "reviews:80"}, "there is no cluster `reviews:80`", ""),
        ({"cluster": "empty"}, "no_healthy_upstream", "UH"),
        ({"cluster": "deaf"}, "upstream_reset_before_response_started{remote_connection_failure", "UF"),
        ({"headers": {"x-want-delay": "30"}, "timeout": 0.2}, "response_timeout", "UT"),
        ({"headers": {"x-want-reset": "before"}}, "upstream_reset_before_response_started{connection_term", "UC"),
        ({"headers": {"x-want-bytes": "2000000"}}, "the answer is longer than 1048576 octets", ""),
    ],
)
def test_what_has_no_answer_says_why(asked: Asked, how: dict[str, Any], reason: str, flags: str) -> None:
    told = asked.ask(**how)
    assert told["reason"].startswith(reason), told
    assert told["flags"] == flags


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"method": "CONNECT"}, "is no request that can be sent"),
        ({"method": "GE T"}, "is no request that can be sent"),
        ({"path": "there"}, "is no request that can be sent"),
        ({"path": "/a b"}, "is no request that can be sent"),
        ({"headers": {"content-length": "3"}}, "`content-length` is written by the proxy"),
        ({"headers": {"a b": "c"}}, "is not a header name"),
        ({"headers": {"a": "b\r\nc: d"}}, "must not contain control characters"),
        ({"timeout": 0}, "a timeout is a number of seconds above 0"),
        ({"timeout": -1}, "a timeout is a number of seconds above 0"),
    ],
)
def test_what_cannot_be_sent_is_refused(asked: Asked, how: dict[str, Any], error: str) -> None:
    assert error in asked.ask(**how)


def test_a_question_ends_with_its_request(asked: Asked) -> None:
    question = {"cluster": "asked", "method": "GET", "path": "/", "headers": {"x-want-delay": "30"}}
    with socket.create_connection(("127.0.0.1", asked.proxy.port)) as client:
        client.sendall(f"GET / HTTP/1.1\r\nhost: a\r\nx-ask: {json.dumps(question)}\r\n\r\n".encode())
        assert eventually(lambda: asked.proxy.stats()["cluster.asked.upstream_rq_active"] == 1)
        # A reset: who has only ended its half still waits for the answer.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert eventually(lambda: asked.proxy.stats()["cluster.asked.upstream_rq_active"] == 0)
    assert asked.proxy.stats()["http.Asking.downstream_rq_active"] == 0


def test_a_plain_hook_asks_from_its_thread(asked: Asked) -> None:
    assert fetch(asked.proxy.ports[1], Request("GET", "/", "a.test")).status == 200
    assert asked.behind.requests[-1].header("x-asked") == "200"


def test_an_inline_hook_cannot_wait(asked: Asked) -> None:
    assert fetch(asked.proxy.ports[2], Request("GET", "/", "a.test")).status == 500
    told = 'ctx.call is for hooks of a filter with lane = "async"'
    assert eventually(lambda: told in asked.proxy.process.output())
