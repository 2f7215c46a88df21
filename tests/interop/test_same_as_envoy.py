"""Ours and Envoy on the same bootstrap answer the same.

For every request of the table, over HTTP/1.1 and HTTP/2: the status, the response's headers, which origin answered,
and the request as that origin saw it. `VOLATILE` names the few headers whose value (not presence) may differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.interop.differential_bootstrap import differential_bootstrap
from tests.proxy.running import Proxy, proxy
from tests.tools.ports import free_port
from tests.tools.wire.client import Answer, fetch
from tests.tools.wire.message import Headers, Request
from tests.tools.wire.origin import Origin, origin

VOLATILE = {"date", "x-request-id", "x-envoy-upstream-service-time"}


@dataclass(frozen=True)
class Case:
    """One request of the table."""

    host: str
    target: str
    headers: Headers = ()
    method: str = "GET"
    body: bytes = b""
    listener: str = "plain"
    versions: tuple[str, ...] = ("http1", "http2")

    def __str__(self) -> str:
        fields = ",".join(f"{name}={value}" for name, value in self.headers)
        return " ".join(filter(None, [self.listener, self.method, f"{self.host}{self.target}", fields]))


def edge(host: str, target: str, headers: Headers = (), **fields: Any) -> Case:
    """A request to the hardened listener."""
    return Case(host, target, headers, listener="edge", **fields)


def ask(name: str, value: str) -> Headers:
    """What the origin shall do."""
    return [(f"x-want-{name}", value)]


CASES = [
    # Paths
    Case("paths.test", "/"),
    Case("paths.test", "/exact"),
    Case("paths.test", "/exact?query=1"),
    Case("paths.test", "/exact/"),
    Case("paths.test", "/item/42"),
    Case("paths.test", "/item/42/more"),
    Case("paths.test", "/item/x"),
    Case("paths.test", "/sep"),
    Case("paths.test", "/sep/below"),
    Case("paths.test", "/separate"),
    Case("paths.test", "/case/x"),
    Case("paths.test", "/CASE"),
    Case("paths.test", "/none/x"),
    Case("paths.test", "/a//b/../c/./d"),
    Case("paths.test", "/%41%2fb%20c?d=%3F&e"),
    Case("paths.test", "/;params=1"),
    # Hosts
    Case("PATHS.test", "/exact"),
    Case("paths.test:8080", "/exact"),
    Case("unknown.test", "/"),
    Case("x.wild.test", "/"),
    Case("x.very.wild.test", "/"),
    Case("wild.test", "/"),
    Case("prefix.example", "/"),
    Case("secure.test", "/path?query=1"),
    Case("http2.test", "/"),
    # Headers, methods, query
    Case("matches.test", "/exact", [("x-env", "canary")]),
    Case("matches.test", "/exact", [("x-env", "Canary")]),
    Case("matches.test", "/exact", [("x-env", "canary"), ("x-env", "other")]),
    Case("matches.test", "/prefix", [("x-env", "canary")]),
    Case("matches.test", "/suffix", [("x-env", "canary")]),
    Case("matches.test", "/contains", [("x-env", "canary")]),
    Case("matches.test", "/nocase", [("x-env", "canary")]),
    Case("matches.test", "/regex", [("x-env", "canary")]),
    Case("matches.test", "/regex", [("x-env", "a canary")]),
    Case("matches.test", "/present", [("x-env", "")]),
    Case("matches.test", "/present"),
    Case("matches.test", "/absent"),
    Case("matches.test", "/absent", [("x-env", "canary")]),
    Case("matches.test", "/invert"),
    Case("matches.test", "/invert", [("x-env", "canary")]),
    Case("matches.test", "/range", [("x-number", "10")]),
    Case("matches.test", "/range", [("x-number", "20")]),
    Case("matches.test", "/range", [("x-number", "many")]),
    Case("matches.test", "/method", method="POST", body=b"hello"),
    Case("matches.test", "/method"),
    Case("matches.test:8080", "/authority"),
    Case("matches.test", "/query-exact?v=2"),
    Case("matches.test", "/query-exact?u=1&v=2"),
    Case("matches.test", "/query-exact?v=3&v=2"),
    Case("matches.test", "/query-present?v"),
    Case("matches.test", "/query-present?w=v"),
    Case("matches.test", "/grpc", [("content-type", "application/grpc")], method="POST", body=b"x"),
    Case("matches.test", "/grpc", [("content-type", "application/grpc+proto")], method="POST", body=b"x"),
    *(Case("paths.test", "/", method=method) for method in ("HEAD", "OPTIONS", "DELETE", "PURGE")),
    *(Case("paths.test", "/", method=method, body=b"x" * 70_000) for method in ("PUT", "PATCH")),
    # Rewrites
    Case("rewrites.test", "/old/path?query=1"),
    Case("rewrites.test", "/old/"),
    Case("rewrites.test", "/root"),
    Case("rewrites.test", "/root/below"),
    Case("rewrites.test", "/rooted"),
    Case("rewrites.test", "/one?query=1"),
    Case("rewrites.test", "/user/ann/photos/1?size=2"),
    Case("rewrites.test", "/host"),
    Case("rewrites.test", "/from-header", [("x-upstream-host", "named.test")]),
    Case("rewrites.test", "/from-header"),
    Case("rewrites.test", "/tell"),
    # Redirects
    *(
        Case("redirects.test", target)
        for target in (
            "/https?query=1",
            "/scheme",
            "/host?query=1",
            "/port",
            "/path?query=1",
            "/with-query?c=d",
            "/prefix/below?query=1",
            "/r/below?query=1",
            "/strip?query=1",
            "/found",
            "/see-other",
            "/temporary",
            "/permanent",
            "/all?query=1",
        )
    ),
    Case("redirects.test", "/https", method="POST", body=b"hello"),
    # Direct responses
    *(Case("direct.test", target) for target in ("/hello", "/plain", "/teapot", "/empty", "/unavailable")),
    Case("direct.test", "/hello", method="HEAD"),
    Case("direct.test", "/no-such-route"),
    # Weights
    Case("weights.test", "/all-a"),
    Case("weights.test", "/all-b"),
    Case("weights.test", "/named", [("x-cluster", "b")]),
    Case("weights.test", "/named", [("x-cluster", "no-such-cluster")]),
    Case("weights.test", "/named"),
    # Header operations
    Case("headers.test", "/add", [("x-levels", "client"), ("x-replaced", "client"), ("x-kept", "client")]),
    Case("headers.test", "/add", [("x-only-if-there", "client"), ("x-secret", "client")]),
    Case("headers.test", "/add", ask("header", "x-internal=1")),
    Case("headers.test", "/add", ask("header", "x-answer-kept=origin")),
    Case("headers.test", "/remove", [("x-drop", "1"), ("user-agent", "test"), ("x-keep", "1")]),
    Case("headers.test", "/format", [("x-copy-me", "copied")]),
    Case("headers.test", "/format"),
    # What a proxy does with well-known headers
    Case("paths.test", "/", [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")]),
    Case("paths.test", "/", [("x-request-id", "from-the-client")]),
    Case("paths.test", "/", [("x-envoy-expected-rq-timeout-ms", "1"), ("x-envoy-internal", "true")]),
    Case("paths.test", "/", [("x-envoy-original-path", "/spoofed"), ("x-envoy-attempt-count", "7")]),
    Case("paths.test", "/", [("via", "1.1 other"), ("server", "client")]),
    Case("paths.test", "/", ask("header", "server=origin")),
    Case("paths.test", "/", ask("header", "x-envoy-upstream-service-time=77")),
    Case("paths.test", "/", [("connection", "keep-alive, x-hop"), ("x-hop", "1")], versions=("http1",)),
    Case("paths.test", "/", [("te", "trailers, deflate")], versions=("http1",)),
    Case("paths.test", "/", [("keep-alive", "timeout=5"), ("proxy-connection", "close")], versions=("http1",)),
    Case("paths.test", "/", [("upgrade", "websocket"), ("connection", "upgrade")], versions=("http1",)),
    Case("paths.test", "http://paths.test/exact?query=1", versions=("http1",)),
    Case("other.test", "http://paths.test/exact", versions=("http1",)),
    Case("paths.test", "*", method="OPTIONS", versions=("http1",)),
    Case("paths.test", "/", [("cookie", "a=1; b=2")]),
    Case("paths.test", "/", [("accept", "a"), ("accept", "b")]),
    Case("paths.test", "/", [("x-under_score", "1")]),
    # Failures
    Case("failures.test", "/down"),
    Case("failures.test", "/empty"),
    Case("failures.test", "/slow", ask("delay", "5")),
    Case("failures.test", "/idle", ask("stall", "1")),
    Case("failures.test", "/http1", ask("reset", "before")),
    Case("failures.test", "/http2", ask("reset", "before")),
    Case("failures.test", "/http1", ask("status", "500")),
    Case("failures.test", "/http2", ask("status", "599")),
    # Retries
    Case("retries.test", "/5xx", ask("status", "503")),
    Case("retries.test", "/5xx", ask("status", "404")),
    Case("retries.test", "/5xx", ask("status", "500"), method="POST", body=b"hello"),
    Case("retries.test", "/gateway", ask("status", "502")),
    Case("retries.test", "/gateway", ask("status", "500")),
    Case("retries.test", "/4xx", ask("status", "409")),
    Case("retries.test", "/codes", ask("status", "418")),
    Case("retries.test", "/reset", ask("reset", "before")),
    Case("retries.test", "/connect"),
    Case("retries.test", "/try", ask("delay", "5")),
    # The hardened listener
    edge("paths.test", "/a/../exact"),
    edge("paths.test", "/a/%2e%2e/exact"),
    edge("paths.test", "//exact"),
    edge("paths.test", "/sep%2Fbelow?query=1"),
    edge("paths.test", "/%7Euser"),
    edge("paths.test:8080", "/exact"),
    edge("paths.test", "/", [("x-request-id", "from-the-client")]),
    edge("paths.test", "/", [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "https")]),
    edge("paths.test", "/", [("x-envoy-internal", "true"), ("x-envoy-retry-on", "5xx")]),
    edge("paths.test", "/", [("x-under_score", "1")]),
    edge("direct.test", "/plain"),
    edge("failures.test", "/down"),
]


@dataclass(frozen=True)
class Pair:
    """Both proxies and the origins that they share."""

    proxies: dict[str, Proxy]
    origins: list[Origin] = field(default_factory=list)

    def observe(self, kind: str, case: Case, version: str) -> dict[str, Any]:
        """Everything that has to be the same."""
        for behind in self.origins:
            behind.requests.clear()
        started = self.proxies[kind]
        port = started.ports[0 if case.listener == "plain" else 1]
        request = Request(case.method, case.target, case.host, case.headers)
        answer = fetch(port, request, case.body, use_http2=version == "http2")
        arrived = {behind.name: len(behind.requests) for behind in self.origins if behind.requests}
        return {"status": answer.status, "headers": _settled(answer), "reached": arrived, "seen": _seen(answer)}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        behind = {name: stack.enter_context(origin(name, http2=name == "c")) for name in ("a", "b", "c")}
        nobody = free_port()
        proxies = {}
        for kind in ("envoy", "pymesh"):
            config = differential_bootstrap(
                plain=free_port(),
                edge=free_port(),
                admin=free_port(),
                origins={name: behind[name].port for name in ("a", "b")},
                http2_origin=behind["c"].port,
                nobody=nobody,
            )
            proxies[kind] = stack.enter_context(proxy(kind, config))
        yield Pair(proxies, list(behind.values()))


@pytest.mark.parametrize(
    ("case", "version"),
    [pytest.param(case, version, id=f"{version} {case}") for case in CASES for version in case.versions],
)
def test_same_answer(case: Case, version: str, pair: Pair) -> None:
    assert pair.observe("pymesh", case, version) == pair.observe("envoy", case, version)


def _settled(answer: Answer) -> list[tuple[str, str]]:
    """Headers in a fixed order, with a mark in place of what may differ."""
    local = answer.header("x-origin") is None
    volatile = VOLATILE | ({"content-length"} if local and answer.status >= 400 else set())
    return sorted((name, "*" if name in volatile else value) for name, value in answer.headers)


def _seen(answer: Answer) -> Any:
    """The request as the origin reported it, or the body as it is if an origin or a route wrote one."""
    if answer.header("content-type") == "application/json":
        report = json.loads(answer.body)
        report["headers"] = sorted([n, "*" if n in VOLATILE else v] for n, v in report["headers"])
        return report
    return answer.body.decode() if answer.status < 400 else None
