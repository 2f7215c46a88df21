"""The contract of inline filters (`pymesh/filters/SPEC.md`), on a running proxy and from a bootstrap file alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, ours
from tests.tools.ports import free_ports
from tests.tools.wire.client import Answer, fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import Origin, origin

SOURCE = """
import time
from pymesh.filters import HttpFilter, Reply, When

class Probe(HttpFilter):
    when = (When(":path", "prefix", "/filtered/"),)

    def on_request_headers(self, request, ctx):
        do = request.headers.get("x-do")
        if do == "raise":
            raise RuntimeError("as it was told to")
        if do == "sleep":
            time.sleep(0.3)
        if do == "reply":
            return Reply(418, b"short and stout", {"x-pot": "tea"})
        if do == "frame":
            request.headers["content-length"] = "7"
        if do == "keep":
            kept.append(request)
        if do == "use":
            kept.pop().headers.get("x-do")
        request.headers["x-seen"] = "yes"
        del request.headers["x-secret"]
        ctx["way"] = "there and back"

    def on_response_headers(self, response, ctx):
        response.headers["x-way"] = ctx["way"]

kept = []
"""


@dataclass(frozen=True)
class Filtered:
    """A proxy with the filter, its origin, and how to ask it to do something."""

    proxy: Proxy
    behind: Origin

    def ask(self, do: str = "", path: str = "/filtered/") -> Answer:
        return fetch(self.proxy.port, Request("GET", path, "a.test", [("x-do", do), ("x-secret", "s")]))

    def count(self, name: str) -> int:
        return self.proxy.stats()[f"http.ingress.python_filter_{name}"]


def filtered(**fields: Any) -> Json:
    """The HTTP filters: the Python filter, then the router."""
    kind = {"@type": "type.googleapis.com/pymesh.filters.v1.PythonFilter", "class": "probe:Probe", **fields}
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    python, last = {"name": "probe", "typed_config": kind}, {"name": "router", "typed_config": router}
    return {"http_filters": [python, last]}


@pytest.fixture(scope="module", params=["CLOSED", "OPEN"])
def policy(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def target(policy: str) -> Iterator[Filtered]:
    port, admin = free_ports(2)
    with origin() as behind:
        hosts = [virtual_host("all", [to_cluster("origin")])]
        manager = filtered(source=SOURCE, timeout="0.2s", failure_policy=policy)
        config = bootstrap([http_listener(port, hosts, **manager)], [cluster("origin", [behind.port])], admin)
        with ours(config) as proxy:
            yield Filtered(proxy, behind)


def test_it_changes_heads_both_ways(target: Filtered) -> None:
    answer = target.ask()
    sent = target.behind.requests[-1]
    assert (sent.header("x-seen"), sent.header("x-secret")) == ("yes", None)
    assert (answer.status, answer.header("x-way")) == (200, "there and back")


def test_its_reply_is_the_answer(target: Filtered) -> None:
    before = len(target.behind.requests)
    answer = target.ask("reply")
    assert (answer.status, answer.body, answer.header("x-pot")) == (418, b"short and stout", "tea")
    assert answer.header("x-way") is None  # response hooks do not see filters' replies
    assert len(target.behind.requests) == before


@pytest.mark.parametrize("do", ["raise", "sleep", "frame"])
def test_its_failure_is_judged_by_the_policy(do: str, target: Filtered, policy: str) -> None:
    before, failures = len(target.behind.requests), target.count("failures")
    answer = target.ask(do)
    assert answer.status == (500 if policy == "CLOSED" else 200)
    assert len(target.behind.requests) - before == (0 if policy == "CLOSED" else 1)
    assert target.count("failures") > failures
    assert target.ask().status == 200  # a failure concerns its own request alone


def test_a_message_is_valid_in_its_hook_only(target: Filtered, policy: str) -> None:
    target.ask("keep")
    assert target.ask("use").status == (500 if policy == "CLOSED" else 200)
    assert "RuntimeError" in target.proxy.process.output()


def test_when_keeps_other_requests_out_of_the_interpreter(target: Filtered) -> None:
    calls = target.count("calls")
    for _ in range(5):
        assert target.ask("raise", path="/plain/").status == 200
    assert target.count("calls") == calls
    target.ask()
    assert target.count("calls") == calls + 2


def test_a_route_without_filters_never_enters_the_interpreter() -> None:
    port, admin = free_ports(2)
    with origin() as behind:
        hosts = [virtual_host("all", [to_cluster("origin")])]
        with ours(bootstrap([http_listener(port, hosts)], [cluster("origin", [behind.port])], admin)) as proxy:
            for _ in range(5):
                assert fetch(port, Request("GET", "/", "a.test")).status == 200
            assert proxy.stats()["http.ingress.python_filter_calls"] == 0


@pytest.mark.parametrize(
    "source", ["class Probe", "import no_such_module", "x = 1", SOURCE.replace("when =", "api = '9.0'\n    when =")]
)
def test_a_filter_that_cannot_be_loaded_fails_closed(source: str) -> None:
    port, admin = free_ports(2)
    with origin() as behind:
        hosts = [virtual_host("all", [to_cluster("origin")])]
        config = bootstrap(
            [http_listener(port, hosts, **filtered(source=source))], [cluster("origin", [behind.port])], admin
        )
        with ours(config) as proxy:
            assert fetch(port, Request("GET", "/filtered/", "a.test")).status == 500
            assert behind.requests == []
            assert proxy.process.alive()
            assert "probe" in proxy.process.output()


def test_metrics_are_istios(target: Filtered) -> None:
    target.ask()
    page = target.proxy.admin("/stats/prometheus")
    families = {family.name: family for family in text_string_to_metric_families(page)}
    labels = families["istio_requests"].samples[0].labels
    assert {
        "reporter", "source_workload", "source_workload_namespace", "source_principal", "source_app", "source_version",
        "source_canonical_service", "source_canonical_revision", "source_cluster", "destination_workload",
        "destination_workload_namespace", "destination_principal", "destination_app", "destination_version",
        "destination_service", "destination_service_name", "destination_service_namespace",
        "destination_canonical_service", "destination_canonical_revision", "destination_cluster", "request_protocol",
        "response_code", "grpc_response_status", "response_flags", "connection_security_policy",
    } == set(labels)  # fmt: skip
    for name in ("istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"):
        assert families[name].type == "histogram", name


KEEPER = """
import threading
from pymesh.filters import HttpFilter

class Keeper(HttpFilter):
    def on_request_headers(self, request, ctx):
        self.local.calls = getattr(self.local, "calls", 0) + 1
        if request.path == "/keep":
            self.kept.append(ctx)
        if request.path == "/put":
            ctx["put"] = request.headers["x-request-id"]
        request.headers["x-put"] = ctx.get("put", "nothing")
        request.headers["x-id"] = ctx.request_id

    def on_response_headers(self, response, ctx):
        response.headers["x-put"] = ctx.get("put", "nothing")
        response.headers["x-id"] = ctx.request_id
        response.headers["x-same"] = str([one is ctx for one in self.kept])
        response.headers["x-kept"] = " ".join(one.request_id for one in self.kept)
        response.headers["x-calls"] = str(self.local.calls)

    local = threading.local()
    kept = []
"""


def test_a_context_is_its_requests_alone() -> None:
    """Whether a filter keeps it, puts something into it, or neither."""
    port, admin = free_ports(2)
    with origin() as behind:
        hosts = [virtual_host("all", [to_cluster("origin")])]
        listener = http_listener(port, hosts, **filtered(**{"class": "keeper:Keeper"}, source=KEEPER))
        with ours(bootstrap([listener], [cluster("origin", [behind.port])], admin)) as proxy:
            seen = []
            for number, path in enumerate(["/", "/keep", "/", "/put", "/keep", "/"]):
                answer = fetch(port, Request("GET", path, "a.test", [("x-request-id", f"id-{number}")]))
                assert behind.requests[-1].header("x-id") == answer.header("x-id") == f"id-{number}"
                assert behind.requests[-1].header("x-put") == answer.header("x-put")
                seen.append([answer.header(f"x-{what}") for what in ("put", "same", "kept", "calls")])
    assert seen == [
        ["nothing", "[]", "", "1"],
        ["nothing", "[True]", "id-1", "2"],
        ["nothing", "[False]", "id-1", "3"],
        ["id-3", "[False]", "id-1", "4"],
        ["nothing", "[False, True]", "id-1 id-4", "5"],
        ["nothing", "[False, False]", "id-1 id-4", "6"],
    ], proxy.process.tail()
