"""Ours and Envoy ask endpoints the same, and think the same of their answers.

Each step changes how an endpoint answers and waits until its flags are what they must become; then what both have
counted is compared, as far as it does not depend on how often they have asked meanwhile.
"""

from __future__ import annotations

import base64
import http.client
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, upstream_tls, virtual_host
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools.certificates import Authority
from tests.tools.commanded import Behaviour, origins
from tests.tools.ports import free_port
from tests.tools.processes import Running, running
from tests.tools.serving import accepting

KINDS = ["envoy", "pymesh"]
QUICK: Json = {
    "timeout": "0.4s",
    "interval": "0.1s",
    "no_traffic_interval": "0.1s",
    "unhealthy_threshold": 2,
    "healthy_threshold": 2,
}
RAW: Json = {
    "name": "raw",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"},
}
FAILED, LATE = "/failed_active_hc", "/failed_active_hc/active_hc_timeout"


def test_answers_make_hosts_healthy_or_not() -> None:
    steps: list[tuple[str, Behaviour, str, dict[str, bool]]] = [
        ("a bad answer", Behaviour(404), FAILED, {"failure": True}),
        ("back", Behaviour(), "healthy", {}),
        ("one that is retried", Behaviour(503), FAILED, {}),
        ("back again", Behaviour(204), "healthy", {}),
        ("no answer", Behaviour(fails="hang"), LATE, {"network_failure": True}),
        ("a bad one is no timeout", Behaviour(500), FAILED, {}),
        ("and back", Behaviour(), "healthy", {}),
        ("it closes", Behaviour(fails="close"), FAILED, {"network_failure": True}),
        ("others are better", Behaviour(headers={"x-envoy-degraded": "1"}), "/degraded_active_hc", {}),
        ("no longer", Behaviour(), "healthy", {}),
        (
            "it wants no more",
            Behaviour(500, {"x-envoy-immediate-health-check-fail": "1"}),
            "/failed_active_hc/excluded_via_immediate_hc_fail",
            {},
        ),
        ("but then", Behaviour(), "healthy", {}),
    ]
    check = {
        **QUICK,
        "http_health_check": {
            "path": "/healthz",
            "expected_statuses": [{"start": 200, "end": 205}],
            "retriable_statuses": [{"start": 503, "end": 504}],
        },
    }
    seen: dict[str, list[Any]] = {}
    for kind in KINDS:
        seen[kind] = []
        with origins("a", "b") as made, proxy(kind, _config([one.port for one in made], check)) as started:
            for title, health, flags, counted in steps:
                before = _counts(started)
                made[0].health = health
                assert eventually(lambda flags=flags: _flags(started) == [flags, "healthy"], 20), (kind, title)
                after = _counts(started)
                grown = {name: after.get(name, 0) > before.get(name, 0) for name in counted}
                assert grown == counted, (kind, title, before, after)
                members = {
                    name: started.stats()[f"cluster.some.membership_{name}"]
                    for name in ("total", "healthy", "degraded", "excluded")
                }
                # Envoy gathers changes of health for a second before its workers learn of them.
                wanted = {"b"} if "failed" in flags else {"a", "b"}
                assert eventually(lambda wanted=wanted: _shares(started) == wanted, 20), (kind, title)
                # Envoy's gauge does not fall when a host is no longer degraded.
                degraded = after["degraded"] if "degraded" in flags else 0
                seen[kind].append((title, after["healthy"], degraded, members))
    assert seen["pymesh"] == seen["envoy"]


def test_the_same_is_asked_over_one_connection() -> None:
    check = {
        **QUICK,
        "http_health_check": {
            "path": "/healthz?a=b",
            "host": "check.test",
            "method": "POST",
            "send": {"text": b"ping".hex()},
            "receive": [{"text": b"po".hex()}, {"binary": base64.b64encode(b"ng").decode()}],
            "request_headers_to_add": [{"header": {"key": "x-check", "value": "1"}}],
            "request_headers_to_remove": ["user-agent"],
        },
    }
    seen = {}
    for kind in KINDS:
        with origins("a") as made:
            made[0].health = Behaviour(body=b"+pong+")
            with proxy(kind, _config([made[0].port], check)) as started:
                assert eventually(lambda: len(made[0].asked) > 5)
                assert _flags(started) == ["healthy"]
                head, *fields = made[0].asked[0].head.rstrip("\r\n").split("\r\n")
                traffic = {
                    name: started.stats()[f"cluster.some.{name}"] for name in ("upstream_cx_total", "upstream_rq_total")
                }
                seen[kind] = (head, sorted(fields), {one.connection for one in made[0].asked}, traffic)
                made[0].health = Behaviour(body=b"ngpo")
                assert eventually(lambda: _flags(started) == [FAILED])
    assert seen["pymesh"] == seen["envoy"]
    assert seen["pymesh"][2] == {1}


def test_a_host_that_expels_itself_in_an_answer() -> None:
    seen = {}
    # So that the next check does not take it back at once.
    check = {**QUICK, "interval": "60s", "http_health_check": {"path": "/healthz"}}
    for kind in KINDS:
        with origins("a") as made, proxy(kind, _config([made[0].port], check)) as started:
            assert eventually(lambda: _flags(started) == ["healthy"])
            made[0].behaviour = Behaviour(headers={"x-envoy-immediate-health-check-fail": "true"})
            assert _get(started) == 200
            flags = "/failed_active_hc/excluded_via_immediate_hc_fail"
            assert eventually(lambda flags=flags: _flags(started) == [flags])
            counts = _counts(started)
            seen[kind] = (counts["passive_failure"], counts["healthy"])
    assert seen["pymesh"] == seen["envoy"] == (1, 0)


def test_a_check_returns_an_outlier() -> None:
    seen = {}
    # The first check comes at once, the next when the cluster has been idle for so long.
    check = {**QUICK, "no_traffic_interval": "2s", "interval": "2s", "http_health_check": {"path": "/healthz"}}
    for kind in KINDS:
        with origins("a", "b") as made:
            config = _config([one.port for one in made], check)
            some = config["static_resources"]["clusters"][0]
            some["outlier_detection"] = {
                "consecutive_5xx": 1,
                "base_ejection_time": "100s",
                "max_ejection_percent": 100,
            }
            with proxy(kind, config) as started:
                assert eventually(lambda: _flags(started) == ["healthy", "healthy"])
                made[0].behaviour = Behaviour(500)
                assert eventually(lambda: _get(started) == 500)
                assert eventually(lambda: _flags(started)[0] == "/failed_outlier_check")
                assert eventually(lambda: _flags(started)[0] == "healthy")
                stats = started.stats()
                seen[kind] = {name: n for name, n in stats.items() if "outlier_detection" in name and n}
    assert seen["pymesh"] == seen["envoy"]


def test_a_stopped_process_is_evicted_and_taken_back() -> None:
    """Not an answer that is made to fail, but a backend that is not scheduled any more."""
    seen: dict[str, list[Any]] = {}
    check = {**QUICK, "http_health_check": {"path": "/"}}
    for kind in KINDS:
        seen[kind] = []
        ports = [free_port(), free_port()]
        with _backend(ports[0]) as first, _backend(ports[1]):
            with proxy(kind, _config(ports, check)) as started:
                assert eventually(lambda: _flags(started) == ["healthy", "healthy"], 20)
                first.signal(signal.SIGSTOP)
                assert eventually(lambda: _flags(started) == [LATE, "healthy"], 20)
                seen[kind].append((_counts(started)["healthy"], [_get(started) for _ in range(6)]))
                first.signal(signal.SIGCONT)
                assert eventually(lambda: _flags(started) == ["healthy", "healthy"], 20)
                seen[kind].append(_counts(started)["healthy"])
    assert seen["pymesh"] == seen["envoy"]


def test_tcp() -> None:
    """A connection is enough, or an answer to what is sent; the connection is kept for the next question."""
    seen: dict[str, list[Any]] = {}
    talk = {"send": {"text": b"PING\r\n".hex()}, "receive": [{"text": b"PONG".hex()}]}
    for kind in KINDS:
        seen[kind] = []
        for tcp in ({}, talk):
            with _line_server() as (port, server):
                nobody = free_port()
                with proxy(kind, _config([port, nobody], {**QUICK, "tcp_health_check": tcp})) as started:
                    assert eventually(lambda: _flags(started) == ["healthy", FAILED])
                    assert eventually(lambda server=server, tcp=tcp: server.questions > 3 or not tcp)
                    counts = _counts(started)
                    seen[kind].append((counts["healthy"], counts["network_failure"] > 0, tcp and server.connections))
                    if tcp:
                        server.answer = b"-ERR\r\n"
                        assert eventually(lambda: _flags(started) == [LATE, FAILED], 20)
    assert seen["pymesh"] == seen["envoy"]


class _Health(grpc.GenericRpcHandler):
    """``grpc.health.v1.Health`` in octets."""

    def __init__(self) -> None:
        self.status = 1
        self.asked: list[tuple[bytes, dict[str, str]]] = []

    def service(self, details: Any) -> Any:
        if details.method != "/grpc.health.v1.Health/Check":
            return None
        metadata = {key: value for key, value in details.invocation_metadata if not key.startswith("grpc-accept")}

        def check(request: bytes, context: Any) -> bytes:
            self.asked.append((request, metadata))
            if self.status < 0:
                context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
            return bytes([8, self.status])

        return grpc.unary_unary_rpc_method_handler(check)


@pytest.mark.parametrize("service", ["", "shop.Reviews"])
def test_grpc(service: str) -> None:
    seen: dict[str, list[Any]] = {}
    probe = {"initial_metadata": [{"header": {"key": "x-check", "value": "1"}}]}
    if service:
        probe |= {"service_name": service, "authority": "reviews.test"}
    for kind in KINDS:
        seen[kind] = []
        health = _Health()
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(health,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            config = _config([port], {**QUICK, "grpc_health_check": probe}, http2=True)
            with proxy(kind, config) as started:
                for status, flags in ((1, "healthy"), (2, FAILED), (1, "healthy"), (-1, FAILED), (1, "healthy")):
                    health.status = status
                    assert eventually(lambda flags=flags: _flags(started) == [flags], 20), (kind, status)
                    seen[kind].append(_counts(started)["healthy"])
                seen[kind].append(health.asked[0])
        finally:
            server.stop(None).wait()
    assert seen["pymesh"] == seen["envoy"]


def test_checks_go_over_the_transport_of_the_cluster_or_another(authority: Authority) -> None:
    """The application port speaks TLS; a port for checks, which the endpoint names, does not."""
    keys = authority.issue("checked", dns=["localhost"])
    seen: dict[str, list[Any]] = {}
    for kind in KINDS:
        seen[kind] = []
        with origins("secure", tls=keys) as (secure,), origins("plain") as (plain,):
            for is_apart in (False, True):
                check: Json = {**QUICK, "http_health_check": {"path": "/healthz"}}
                config = _config([secure.port], check)
                some = config["static_resources"]["clusters"][0]
                some["transport_socket"] = upstream_tls(str(authority.root), "localhost")
                if is_apart:
                    check["transport_socket_match_criteria"] = {"clear": "yes"}
                    some["transport_socket_matches"] = [
                        {"name": "m", "match": {"clear": "yes"}, "transport_socket": RAW}
                    ]
                    endpoint = some["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
                    endpoint["health_check_config"] = {"port_value": plain.port, "hostname": "check.test"}
                with proxy(kind, config) as started:
                    checked = plain if is_apart else secure
                    assert eventually(lambda checked=checked: len(checked.asked) > 2)
                    assert _flags(started) == ["healthy"]
                    asked = checked.asked[-1].head.lower().split("\r\n")
                    seen[kind].append((_get(started), [line for line in asked if line.startswith("host")]))
    assert seen["pymesh"] == seen["envoy"]


def _config(ports: list[int], check: Json, *, http2: bool = False) -> Json:
    some = cluster("some", ports, http2=http2, health_checks=[check])
    listener = http_listener(free_port(), [virtual_host("all", [to_cluster("some")])])
    return bootstrap([listener], [some], free_port())


def _flags(started: Proxy) -> list[str]:
    """What is wrong with each host, in the order of the configuration."""
    lines = [line.split("::") for line in started.admin("/clusters").splitlines()]
    return [parts[3] for parts in lines if len(parts) == 4 and parts[2] == "health_flags"]


def _counts(started: Proxy) -> dict[str, int]:
    prefix = "cluster.some.health_check."
    return {name.removeprefix(prefix): n for name, n in started.stats().items() if name.startswith(prefix)}


def _get(started: Proxy) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=20)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def _shares(started: Proxy) -> set[str]:
    """Who answers."""
    answered: set[str] = set()
    for _ in range(8):
        connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=20)
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        answered.add(answer.headers.get("x-host", ""))
        connection.close()
    return answered


@contextmanager
def _backend(port: int) -> Iterator[Running]:
    argv = [sys.executable, "-m", "http.server", "--protocol", "HTTP/1.1", "--bind", "127.0.0.1", str(port)]
    with running(argv, title="backend", ports=[port]) as process:
        yield process


class _Lines:
    """Answers each line."""

    def __init__(self) -> None:
        self.answer, self.questions, self.connections = b"+PONG\r\n", 0, 0

    def talk(self, connection: socket.socket) -> None:
        self.connections += 1
        while connection.recv(100):
            self.questions += 1
            connection.sendall(self.answer)


@contextmanager
def _line_server() -> Iterator[tuple[int, _Lines]]:
    lines = _Lines()
    with accepting(lines.talk) as port:
        yield port, lines
