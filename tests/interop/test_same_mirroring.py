"""Ours and Envoy mirror the same: what reaches the shadow, how often, and what its cluster counts.

A mirrored request names the way it came by the proxy's own address in `x-forwarded-for`: Envoy writes its machine's,
ours that by which the shadow sees it. `_seen` leaves that last hop out.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools.ports import free_port
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Headers, Request
from tests.tools.wire.origin import Origin, origin

KINDS = ["envoy", "pymesh"]
#: Requests of the sample, and the share that is mirrored.
SAMPLE, SHARE = 400, 30


def header(name: str, value: str, action: str = "APPEND_IF_EXISTS_OR_ADD") -> Json:
    return {"header": {"key": name, "value": value}, "append_action": action}


def shadow(cluster_name: str = "shadow", **fields: Any) -> Json:
    return {"cluster": cluster_name, **fields}


MUTATIONS = [
    {"append": header("x-added", "%REQ(:path)% %PROTOCOL% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")},
    {"append": header("x-there", "replaced", "OVERWRITE_IF_EXISTS")},
    {"append": header("x-not-there", "1", "OVERWRITE_IF_EXISTS")},
    {"append": header("x-passing", "1")},
    {"remove": "x-passing"},
    {"remove_on_match": {"key_matcher": {"prefix": "x-secret-"}}},
]
ROUTES: dict[str, Json] = {
    "plain": {"request_mirror_policies": [shadow()]},
    "same-host": {"request_mirror_policies": [shadow(disable_shadow_host_suffix_append=True)]},
    "literal": {"request_mirror_policies": [shadow(host_rewrite_literal="other.test:99")]},
    "twice": {"request_mirror_policies": [shadow(), shadow("http2")]},
    "http2": {"request_mirror_policies": [shadow("http2")]},
    "changed": {"request_mirror_policies": [shadow(request_headers_mutations=MUTATIONS)]},
    "rewritten": {
        "prefix_rewrite": "/new",
        "host_rewrite_literal": "rewritten.test",
        "request_mirror_policies": [shadow()],
    },
    "endless": {"timeout": "0s", "request_mirror_policies": [shadow(trace_sampled=False)]},
    "retried": {
        "retry_policy": {"retry_on": "5xx", "num_retries": 2, "per_try_timeout": "3s"},
        "request_mirror_policies": [shadow()],
    },
    "named": {"request_mirror_policies": [{"cluster_header": "x-shadow"}]},
    "down": {"request_mirror_policies": [shadow("down")]},
    "empty": {"request_mirror_policies": [shadow("empty")]},
    "unknown": {"request_mirror_policies": [shadow("unknown")]},
    "share": {
        "request_mirror_policies": [
            shadow(runtime_fraction={"default_value": {"numerator": SHARE, "denominator": "HUNDRED"}})
        ]
    },
    "never": {"request_mirror_policies": [shadow(runtime_fraction={"default_value": {"numerator": 0}})]},
}


@dataclass(frozen=True)
class Case:
    """A request, and where its copies arrive."""

    route: str
    arrives: tuple[str, ...] = ("shadow",)
    headers: Headers = ()
    method: str = "GET"
    body: bytes = b""
    target: str = "/path?query=1"
    port: str = ""

    def __str__(self) -> str:
        fields = ",".join(f"{name}={value}" for name, value in self.headers)
        return " ".join(filter(None, [self.route + self.port, self.method, str(len(self.body) or ""), fields]))


CASES = [
    Case("plain"),
    Case("plain", port=":8080"),
    Case("plain", method="HEAD"),
    Case("plain", method="POST", body=b"hello"),
    Case("plain", method="POST", body=bytes(range(256)) * 4000),
    Case("plain", headers=[("x-forwarded-for", "192.0.2.1"), ("x-request-id", "from-the-client")]),
    Case("plain", headers=[("x-want-status", "500")]),
    Case("plain", headers=[("x-want-bytes", "300000")]),
    Case("plain", headers=[("x-envoy-internal", "false"), ("te", "trailers")]),
    Case("plain", headers=[("expect", "100-continue")], method="POST", body=b"hello"),
    Case("same-host"),
    Case("literal"),
    Case("twice", ("shadow", "http2"), method="POST", body=b"hello"),
    Case("http2", ("http2",)),
    Case("http2", ("http2",), method="POST", body=bytes(range(256)) * 4000),
    Case("changed", headers=[("x-there", "1"), ("x-secret-a", "1"), ("x-secret-b", "2"), ("x-passing", "0")]),
    Case("rewritten"),
    Case("endless"),
    Case("retried", headers=[("x-want-status", "503")]),
    Case("named", ("http2",), headers=[("x-shadow", "http2")]),
    Case("named", (), headers=[("x-shadow", "unknown")]),
    Case("named", ()),
    Case("down", ()),
    Case("empty", ()),
    Case("unknown", ()),
    Case("never", ()),
    Case("host", ("http2",)),
    Case("host", ("shadow",), target="/own"),
    Case("table", ("shadow",)),
    Case("main-down", ("shadow",)),
    Case("main-empty", ()),
]


@dataclass(frozen=True)
class Run:
    """A proxy and who is behind it."""

    proxy: Proxy
    origins: dict[str, Origin]


@pytest.fixture(scope="module", params=KINDS)
def each(request: pytest.FixtureRequest) -> Iterator[Run]:
    with ExitStack() as stack:
        yield _start(stack, request.param)


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Run]]:
    with ExitStack() as stack:
        yield [_start(stack, kind) for kind in KINDS]


def _start(stack: ExitStack, kind: str) -> Run:
    origins = {name: stack.enter_context(origin(name, http2=name == "http2")) for name in ("main", "shadow", "http2")}
    silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    # It listens to nobody, and nobody else may have its port.
    down = stack.enter_context(socket.socket())
    down.bind(("127.0.0.1", 0))
    hosts = [
        virtual_host(
            name,
            [to_cluster("main", **action)],
            [f"{name}.test", f"{name}.test:8080"],
            include_request_attempt_count=True,
        )
        for name, action in ROUTES.items()
    ]
    own = to_cluster("main", "/own", request_mirror_policies=[shadow()])
    hosts += [
        virtual_host("host", [own, to_cluster("main")], ["host.test"], request_mirror_policies=[shadow("http2")]),
        virtual_host("table", [to_cluster("main")], ["table.test"]),
        virtual_host("main-down", [to_cluster("down")], ["main-down.test"]),
        virtual_host("main-empty", [to_cluster("empty")], ["main-empty.test"]),
        virtual_host("silent", [to_cluster("main", request_mirror_policies=[shadow("silent")])], ["silent.test"]),
    ]
    table = {"name": "in", "virtual_hosts": hosts, "validate_clusters": False, "request_mirror_policies": [shadow()]}
    listener = http_listener(free_port(), [], name="in", route_config=table)
    clusters = [cluster(name, [one.port], http2=name == "http2") for name, one in origins.items()]
    clusters += [
        cluster("down", [down.getsockname()[1]]),
        cluster("empty", []),
        cluster("silent", [silent.getsockname()[1]]),
    ]
    return Run(stack.enter_context(proxy(kind, bootstrap([listener], clusters, free_port()))), origins)


def _seen(run: Run, name: str) -> list[Any]:
    """What has reached an origin: heads without what is the proxy's own, and what it made of the bodies."""
    found = []
    for request in run.origins[name].requests:
        fields = sorted(
            (field, value.rpartition(",")[0] if field == "x-forwarded-for" and name != "main" else value)
            for field, value in request.headers
            if field != "x-request-id"
        )
        found.append((request.method, request.target, request.authority, fields))
    bodies = [(one["length"], one["sha256"], one["trailers"]) for one in run.origins[name].reports]
    return [found, bodies]


def _ask(run: Run, case: Case, use_http2: bool) -> Any:
    """The client's answer, what reached whom, and what was counted of the shadows."""
    for one in run.origins.values():
        one.requests.clear()
        one.reports.clear()
    before = run.proxy.stats()
    request = Request(case.method, case.target, f"{case.route}.test{case.port}", case.headers)
    answer = fetch(run.proxy.port, request, case.body, use_http2=use_http2)
    shadows = ("shadow", "http2")

    def has_come() -> bool:
        heads = [name for name in shadows for _ in run.origins[name].requests]
        is_quiet = not any("upstream_rq_active" in name and "silent" not in name for name in run.proxy.active())
        return sorted(heads) == sorted(case.arrives) and is_quiet

    assert eventually(has_come), f"{run.proxy.kind}: {[run.origins[name].requests for name in shadows]}"
    ids = {request.header("x-request-id") for one in run.origins.values() for request in one.requests}
    assert len(ids) <= 1, "a copy is known by the id of the request"
    after = run.proxy.stats()
    counted = {
        f"{name}.{what}": after.get(f"cluster.{name}.{what}", 0) - before.get(f"cluster.{name}.{what}", 0)
        for name in ("shadow", "http2")
        for what in ("upstream_rq_total", "upstream_rq_2xx", "upstream_rq_5xx", "upstream_rq_completed")
    }
    return answer.status, [_seen(run, name) for name in run.origins], counted


@pytest.mark.parametrize("use_http2", [False, True], ids=["http1", "http2"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_copies(case: Case, use_http2: bool, pair: list[Run]) -> None:
    envoys, ours = (_ask(run, case, use_http2) for run in pair)
    assert ours == envoys


def test_the_share_is_that_of_the_policy(each: Run) -> None:
    """Within four standard deviations."""
    before = each.proxy.stats().get("cluster.shadow.upstream_rq_total", 0)
    for _ in range(SAMPLE):
        assert fetch(each.proxy.port, Request("GET", "/", "share.test")).status == 200
    assert eventually(lambda: not any("upstream_rq_active" in name for name in each.proxy.active()))
    copies = each.proxy.stats()["cluster.shadow.upstream_rq_total"] - before
    mean = SAMPLE * SHARE / 100
    assert abs(copies - mean) <= 4 * (mean * (1 - SHARE / 100)) ** 0.5


def test_a_shadow_that_takes_nothing_holds_nobody_up() -> None:
    """On purpose not as Envoy, which stops reading its client until the shadow reads."""
    with ExitStack() as stack:
        run = _start(stack, "pymesh")
        answers: list[int] = []
        body = bytes(range(256)) * 80_000

        def upload() -> None:
            answers.append(fetch(run.proxy.port, Request("POST", "/", "silent.test"), body).status)

        uploads = [threading.Thread(target=upload, daemon=True) for _ in range(4)]
        for one in uploads:
            one.start()
        for one in uploads:
            one.join(60)
        assert answers == [200] * len(uploads)
        assert run.proxy.stats()["cluster.main.retry_or_shadow_abandoned"] == len(uploads)
        assert {one["length"] for one in run.origins["main"].reports} == {len(body)}
