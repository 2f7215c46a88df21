"""Ours and Envoy on the same bootstrap answer the same.

For every request of the table, over HTTP/1.1 and HTTP/2: the status, the response's headers, which origin answered,
and the request as that origin saw it. `VOLATILE` names the few headers whose value (not presence) may differ.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.interop.differential_bootstrap import differential_bootstrap
from tests.proxy.bootstrap import GRPC_DEADLINES
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.ports import free_port
from tests.tools.wire.client import Answer, fetch
from tests.tools.wire.message import Aborted, Headers, Request
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
    scheme: str = "http"

    def __str__(self) -> str:
        fields = ",".join(f"{name}={value}" for name, value in self.headers)
        scheme = "" if self.scheme == "http" else self.scheme
        return " ".join(filter(None, [self.listener, self.method, scheme, f"{self.host} {self.target}", fields]))


def edge(host: str, target: str, headers: Headers = (), **fields: Any) -> Case:
    """A request to the hardened listener."""
    return Case(host, target, headers, listener="edge", **fields)


def ask(name: str, value: str) -> Headers:
    """What the origin shall do."""
    return [(f"x-want-{name}", value)]


GRPC: Headers = [("content-type", "application/grpc")]
DEADLINES = ["50S", "1M", "9500m", "9500000u", "99999999u", "99999999H", "5", "S", "5s", "123456789m", "-5S", "50S "]

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
    Case("secure.test", "/", [("x-forwarded-proto", "https")]),
    Case("secure.test", "/", scheme="https", versions=("http2",)),
    edge("secure.test", "/", scheme="https", versions=("http2",)),
    edge("paths.test", "/", scheme="https", versions=("http2",)),
    Case("http2.test", "/", [("x-forwarded-proto", "https")]),
    Case("paths.test.", "/exact"),
    Case("paths.test", "/exact?"),
    # Headers, methods, query
    Case("matches.test", "/exact", [("x-env", "canary")]),
    Case("matches.test", "/exact", [("x-env", "Canary")]),
    Case("matches.test", "/exact", [("x-env", "canary"), ("x-env", "other")]),
    Case("matches.test", "/exact", [("x-env", "other"), ("x-env", "canary")]),
    Case("matches.test", "/exact", [("x-env", "other"), ("x-env", "another")]),
    Case("matches.test", "/invert", [("x-env", "other"), ("x-env", "canary")]),
    Case("matches.test", "/invert", [("x-env", "other"), ("x-env", "another")]),
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
    Case("paths.test", "/", method="DELETE", body=b"hello"),
    Case("paths.test", "/", body=b"hello"),
    Case("paths.test", "/", [("expect", "100-continue")], method="POST", body=b"hello"),
    Case("http2.test", "/", [("expect", "100-continue")], method="POST", body=b"hello"),
    Case("http2.test", "/", [("te", "trailers")], versions=("http2",)),
    *(Case("http2.test", "/", method=method) for method in ("HEAD", "OPTIONS", "POST")),
    # Bodies
    *(Case(host, "/", ask("bytes", "300000")) for host in ("paths.test", "http2.test")),
    *(Case(host, "/", ask("echo", "1"), method="POST", body=b"x" * 300_000) for host in ("paths.test", "http2.test")),
    *(
        Case(host, "/", ask("status", status), method=method)
        for host in ("paths.test", "http2.test")
        for status in ("204", "304", "404", "599")
        for method in ("GET", "HEAD")
    ),
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
    Case("redirects.test", "/https", method="POST", body=b"hello", versions=("http2",)),
    # Direct responses
    *(Case("direct.test", target) for target in ("/hello", "/plain", "/teapot", "/empty", "/unavailable")),
    Case("direct.test", "/hello", method="HEAD"),
    Case("direct.test", "/no-such-route"),
    Case("redirects.test", "/host", [("x-forwarded-proto", "https")]),
    Case("unknown.test", "/", method="HEAD", versions=("http2",)),
    Case("failures.test", "/down", method="HEAD"),
    # To gRPC the status of a local reply is told as gRPC's
    *(
        Case(host, target, GRPC, method="POST", body=b"x", versions=("http2",))
        for host, target in (
            ("unknown.test", "/"),
            ("direct.test", "/plain"),
            ("direct.test", "/teapot"),
            ("direct.test", "/unavailable"),
            ("failures.test", "/down"),
            ("failures.test", "/empty"),
            ("redirects.test", "/host"),
        )
    ),
    Case("failures.test", "/slow", [*GRPC, *ask("delay", "5")], method="POST", body=b"x"),
    # Weights
    Case("weights.test", "/all-a"),
    Case("weights.test", "/all-b"),
    Case("weights.test", "/named", [("x-cluster", "b")]),
    Case("weights.test", "/named", [("x-cluster", "no-such-cluster")]),
    Case("weights.test", "/named"),
    Case("weights.test", "/hosted"),
    Case("weights.test", "/hosted-twice"),
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
    Case("paths.test", "/", [("x-envoy-upstream-rq-timeout-ms", "1"), ("x-envoy-max-retries", "9")]),
    Case("paths.test", "/", [("x-envoy-decorator-operation", "x"), ("x-envoy-downstream-service-node", "x")]),
    Case("paths.test", "/", [("x-envoy-external-address", "192.0.2.1"), ("x-forwarded-host", "other.test")]),
    Case("paths.test", "/", [("grpc-timeout", "1S"), ("x-envoy-original-host", "other.test")]),
    Case("paths.test", "/", [("x-envoy-original-path", "/spoofed"), ("x-envoy-attempt-count", "7")]),
    Case("paths.test", "/", [("via", "1.1 other"), ("server", "client")]),
    Case("paths.test", "/", ask("header", "server=origin")),
    Case("paths.test", "/", ask("header", "x-envoy-upstream-service-time=77")),
    Case("paths.test", "/", [("connection", "keep-alive, x-hop"), ("x-hop", "1")], versions=("http1",)),
    Case("paths.test", "/", [("te", "trailers, deflate")], versions=("http1",)),
    Case("paths.test", "/", [("keep-alive", "timeout=5"), ("proxy-connection", "close")], versions=("http1",)),
    Case("paths.test", "/", [("upgrade", "websocket"), ("connection", "upgrade")], versions=("http1",)),
    Case("paths.test", "http://paths.test/exact?query=1", versions=("http1",)),
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
    Case("failures.test", "/http1", ask("reset", "after")),
    Case("failures.test", "/http2", ask("reset", "after")),
    Case("failures.test", "/slow", ask("stall", "1")),
    Case("failures.test", "/gone"),
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
    Case("retries.test", "/try", ask("status", "200")),
    Case("retries.test", "/stream", ask("reset", "before")),
    Case("retries.test", "/grpc", [*GRPC, *ask("header", "grpc-status=14")], method="POST", body=b"x"),
    Case("retries.test", "/grpc", [*GRPC, *ask("header", "grpc-status=5")], method="POST", body=b"x"),
    Case("host-retries.test", "/", ask("status", "503")),
    Case("host-retries.test", "/", ask("status", "200")),
    Case("host-retries.test", "/", ask("delay", "5")),
    # Deadlines of gRPC
    *(
        Case("deadlines.test", path, [*GRPC, *wanted], method="POST", body=b"x")
        for path in ("/own", "/most", "/less", "/stream/", "/stream-most", "/stream-less", "/both", "/none")
        for wanted in ([], *([("grpc-timeout", value)] for value in DEADLINES))
    ),
    *(Case("deadlines.test", path, [*GRPC, ("grpc-timeout", "0S")]) for path in ("/own", "/most", "/less")),
    *(Case("deadlines.test", path, [("grpc-timeout", "50S")]) for path in ("/own", "/stream/", "/stream-less")),
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
    edge("paths.test", "/", ask("header", "via=1.1 origin")),
    edge("paths.test", "/", [("via", "1.1 client"), ("x-envoy-external-address", "192.0.2.1")]),
    edge("paths.test", "/", [("x-envoy-decorator-operation", "x"), ("x-envoy-downstream-service-node", "x")]),
    edge("secure.test", "/", [("x-forwarded-proto", "https")]),
    edge("secure.test:8080", "/"),
    edge("paths.test", "/a%5Cb"),
    edge("paths.test", "/a\\b"),
    edge("direct.test", "/plain"),
    edge("failures.test", "/down"),
]


@dataclass(frozen=True)
class Difference:
    """Where ours answers otherwise on purpose."""

    case: Case
    status: int
    reason: str

    def __str__(self) -> str:
        return str(self.case)


DELIBERATE = [
    Difference(
        Case("other.test", "http://paths.test/exact", versions=("http1",)),
        400,
        "Two hosts in one request. Envoy believes the target (RFC 9112, 3.2.2), but whoever stands before or behind us "
        "may have believed Host: the two must not be told apart by who looks.",
    ),
    Difference(
        Case("unknown.test", "/", method="HEAD", versions=("http1",)),
        404,
        "Envoy announces chunks in its own answers to HEAD. None follow, and GET would not have any either: "
        "a client that does not know better waits for them.",
    ),
]
# Beyond single cases, one value differs on purpose: for a client on loopback Envoy appends an address of its own
# machine to `x-forwarded-for`. Ours says where the request came from; `_seen` leaves that last hop out.


@dataclass(frozen=True)
class Pair:
    """Both proxies and the origins that they share."""

    proxies: dict[str, Proxy]
    logs: dict[str, Path]
    origins: list[Origin] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)

    def lines(self, kind: str) -> list[str]:
        """The access log: a line for every request so far."""
        assert eventually(lambda: len(lines_of(self.logs[kind])) >= self.asked[kind])
        return lines_of(self.logs[kind])

    def observe(self, kind: str, case: Case, version: str) -> dict[str, Any]:
        """Everything that has to be the same."""
        for behind in self.origins:
            behind.requests.clear()
        self.asked[kind] += 1
        started = self.proxies[kind]
        port = started.ports[0 if case.listener == "plain" else 1]
        request = Request(case.method, case.target, case.host, case.headers, case.scheme)
        try:
            answer = fetch(port, request, case.body, use_http2=version == "http2")
        except Aborted as aborted:
            return {"aborted": str(aborted)}
        arrived = {behind.name: len(behind.requests) for behind in self.origins if behind.requests}
        return {"status": answer.status, "headers": _settled(answer), "reached": arrived, "seen": _seen(answer)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("logs")
    logs = {kind: folder / kind for kind in ("envoy", "pymesh")}
    with ExitStack() as stack:
        behind = {name: stack.enter_context(origin(name, http2=name == "c")) for name in ("a", "b", "c")}
        nobody = free_port()
        proxies = {}
        for kind, log in logs.items():
            config = differential_bootstrap(
                plain=free_port(),
                edge=free_port(),
                admin=free_port(),
                origins={name: behind[name].port for name in ("a", "b")},
                http2_origin=behind["c"].port,
                nobody=nobody,
                log=str(log),
            )
            if kind == "envoy":
                config["layered_runtime"] = GRPC_DEADLINES
            proxies[kind] = stack.enter_context(proxy(kind, config))
        yield Pair(proxies, logs, list(behind.values()))


@pytest.mark.parametrize(
    ("case", "version"),
    [pytest.param(case, version, id=f"{version} {case}") for case in CASES for version in case.versions],
)
def test_same_answer(case: Case, version: str, pair: Pair) -> None:
    assert pair.observe("pymesh", case, version) == pair.observe("envoy", case, version)


def test_same_access_log(pair: Pair) -> None:
    # Where Envoy's codec refuses a head, its log does not know what was asked; ours does.
    parsed = [case for case in CASES if ("x-under_score", "1") not in case.headers]
    asked = [(case, version) for case in parsed for version in case.versions]
    written = {}
    for kind in pair.proxies:
        before = len(pair.lines(kind))
        for case, version in asked:
            pair.observe(kind, case, version)
        lines = pair.lines(kind)[before:]
        written[kind] = [_logged(case, line) for (case, _), line in zip(asked, lines, strict=True)]
    assert written["pymesh"] == written["envoy"]


@pytest.mark.parametrize("difference", DELIBERATE, ids=str)
def test_deliberate_difference(difference: Difference, pair: Pair) -> None:
    for version in difference.case.versions:
        ours = pair.observe("pymesh", difference.case, version)
        assert ours["status"] == difference.status, difference.reason
        assert ours["reached"] == {}
        # One that is no difference any more has no place in the list.
        assert ours != pair.observe("envoy", difference.case, version), difference.reason


def _settled(answer: Answer) -> list[tuple[str, str]]:
    """Headers in a fixed order, with a mark in place of what may differ."""
    volatile = set(VOLATILE)
    headers = answer.headers
    if answer.header("content-type") == "application/octet-stream":
        # Whether an echo begins before the end of the request, which these tell, is a matter of luck.
        headers = [field for field in headers if field[0] not in ("x-envoy-upstream-service-time", "connection")]
    if _is_report(answer) or (answer.header("x-origin") is None and answer.status >= 400):
        # The body is compared by itself; what the origin reports is as long as what it was told.
        volatile.add("content-length")
    return sorted((name, "*" if name in volatile else value) for name, value in _joined(headers))


def _seen(answer: Answer) -> Any:
    """The request as the origin reported it, or the body as it is if an origin or a route wrote one."""
    if not _is_report(answer):
        return answer.body.decode("latin-1")
    report = json.loads(answer.body)
    headers = dict(_joined([(name, value) for name, value in report["headers"]]))
    volatile = set(VOLATILE)
    if headers.get("x-envoy-attempt-count", "1") != "1":
        # What is left of the time for the whole request.
        volatile.add("x-envoy-expected-rq-timeout-ms")
    if "x-envoy-external-address" in headers:
        hops = headers.get("x-forwarded-for", "").split(", ")
        headers["x-forwarded-for"] = ", ".join([*hops[:-1], "*"])
    report["headers"] = sorted((name, "*" if name in volatile else value) for name, value in headers.items())
    return report


def _logged(case: Case, line: str) -> str:
    """A line of the log without what is a matter of luck, or of how a proxy words its own requests."""
    # Envoy's details go on with what the system said of the connection.
    fields = re.sub(r"\|[^}]*}", "}", line).split()
    *request, protocol, status, details, flags, upstream, attempts, received, sent = fields
    if (protocol, upstream) == ("HTTP/1.1", "c"):
        # A client that has its content-length may leave before the stream has ended upstream.
        details, flags, received = "*", "*", "*"
    elif details != "via_upstream":
        received = "*"  # as much of the request as came before the answer
    if case.listener == "edge" or attempts != "1" or len(dict(case.headers)) < len(case.headers):
        sent = "*"  # the origin reports headers that are spelled, or timed, differently
    return " ".join([*request, protocol, status, details, flags, upstream, attempts, received, sent])


def _is_report(answer: Answer) -> bool:
    return answer.header("content-type") == "application/json" and bool(answer.body)


def _joined(headers: Headers) -> list[tuple[str, str]]:
    """Several fields of a name are one list, which is written in more than one way (RFC 9110, 5.3)."""
    members: dict[str, list[str]] = {}
    for name, value in headers:
        members.setdefault(name, []).extend(part.strip() for part in value.split(","))
    return [(name, ", ".join(values)) for name, values in members.items()]
