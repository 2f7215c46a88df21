"""Ours and Envoy eject the same outliers: by answers, timeouts, connections that break or never come, and rates.

Each case runs both on one bootstrap against origins that fail as they are told. What is compared is who is ejected and
every counter of outlier detection.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, tcp_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools.commanded import Behaviour, Origin, origins
from tests.tools.ports import free_port

KINDS = ["envoy", "pymesh"]
#: Long enough for nobody to come back.
LONG = {"base_ejection_time": "100s", "max_ejection_percent": 100}


@dataclass(frozen=True)
class Case:
    """How the first of three origins fails, and how often it is asked before somebody looks."""

    failing: Behaviour
    detection: Json
    asked: int
    is_ejected: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    route: Json = field(default_factory=dict)


CASES = {
    "5xx": Case(Behaviour(500), {}, 5),
    "gateway failures": Case(
        Behaviour(502),
        {"consecutive_5xx": 0, "consecutive_gateway_failure": 3, "enforcing_consecutive_gateway_failure": 100},
        3,
    ),
    "a 500 is no gateway failure": Case(
        Behaviour(500),
        {"consecutive_5xx": 0, "consecutive_gateway_failure": 3, "enforcing_consecutive_gateway_failure": 100},
        4,
        is_ejected=False,
    ),
    "both rows are full at once": Case(Behaviour(503), {"consecutive_5xx": 4, "consecutive_gateway_failure": 4}, 4),
    "no answer": Case(Behaviour(fails="close"), {"consecutive_5xx": 3}, 3),
    "an answer that breaks off": Case(Behaviour(200, body=b"x" * 100, cut=10), {"consecutive_5xx": 1}, 1),
    "no answer in time": Case(Behaviour(fails="hang"), {"consecutive_5xx": 2}, 2, route={"timeout": "0.3s"}),
    "no answer in time, once more": Case(
        Behaviour(fails="hang"),
        {"consecutive_5xx": 2},
        2,
        route={"retry_policy": {"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.3s"}},
    ),
    "a connection that breaks was one": Case(
        Behaviour(fails="close"),
        {"split_external_local_origin_errors": True, "consecutive_local_origin_failure": 3},
        6,
        is_ejected=False,
    ),
    "answers apart": Case(Behaviour(503), {"split_external_local_origin_errors": True, "consecutive_5xx": 3}, 3),
    "status of gRPC": Case(
        Behaviour(200, {"content-type": "application/grpc", "grpc-status": "14"}),
        {"consecutive_gateway_failure": 2, "enforcing_consecutive_gateway_failure": 100},
        2,
        headers={"content-type": "application/grpc"},
    ),
    "status of gRPC that is no failure": Case(
        Behaviour(200, {"content-type": "application/grpc", "grpc-status": "5"}),
        {"consecutive_5xx": 2},
        4,
        is_ejected=False,
        headers={"content-type": "application/grpc"},
    ),
    "not enforced": Case(Behaviour(500), {"enforcing_consecutive_5xx": 0, "consecutive_5xx": 2}, 2, is_ejected=False),
    "too many": Case(Behaviour(500), {"max_ejection_percent": 20, "consecutive_5xx": 2}, 2, is_ejected=False),
    "too many, but for one": Case(
        Behaviour(500), {"max_ejection_percent": 20, "consecutive_5xx": 2, "always_eject_one_host": True}, 2
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_rows_of_failures(case: Case) -> None:
    seen = {}
    for kind in KINDS:
        with origins("a", "b", "c") as made, proxy(kind, _config(made, case.detection, case.route)) as started:
            made[0].behaviour = case.failing
            _ask(started, lambda: made[0].requests >= case.asked, case.headers)
            if case.is_ejected:
                assert eventually(lambda: _ejected(started, made) == ["a"])
                asked = made[0].requests
                for _ in range(6):
                    assert _answer(started, case.headers) in ("b", "c")
                assert made[0].requests == asked
            seen[kind] = (_ejected(started, made), made[0].requests, _settled(started))
    assert seen["pymesh"] == seen["envoy"]


def test_a_success_ends_a_row() -> None:
    seen = {}
    for kind in KINDS:
        with origins("a", "b", "c") as made, proxy(kind, _config(made, {"consecutive_5xx": 3})) as started:
            for _ in range(2):
                made[0].behaviour = Behaviour(500)
                failed = made[0].requests + 2
                _ask(started, lambda failed=failed: made[0].requests >= failed)
                made[0].behaviour = Behaviour(404)
                _ask(started, lambda failed=failed: made[0].requests > failed)
            seen[kind] = (_ejected(started, made), _counts(started))
    assert seen["pymesh"] == seen["envoy"] == ([], {})


def test_hosts_come_back_and_are_ejected_again() -> None:
    detection = {"interval": "0.2s", "base_ejection_time": "0.3s", "consecutive_5xx": 2, "max_ejection_percent": 100}
    seen = {}
    for kind in KINDS:
        with origins("a", "b", "c") as made, proxy(kind, _config(made, detection)) as started:
            for _ in range(2):
                made[0].behaviour = Behaviour(500)
                failed = made[0].requests + 2
                _ask(started, lambda failed=failed: made[0].requests >= failed)
                assert eventually(lambda: _ejected(started, made) == ["a"])
                made[0].behaviour = Behaviour()
                assert eventually(lambda: _ejected(started, made) == [])
                _ask(started, lambda failed=failed: made[0].requests > failed)
            seen[kind] = _counts(started)
    assert seen["pymesh"] == seen["envoy"]
    assert seen["pymesh"]["ejections_enforced_total"] == 2


@pytest.mark.parametrize("is_split", [False, True])
def test_nobody_listens(is_split: bool) -> None:
    """Connections that are refused, by HTTP and by a TCP proxy, which tries another host."""
    detection = {"consecutive_5xx": 3, "consecutive_local_origin_failure": 2}
    detection["split_external_local_origin_errors"] = is_split
    seen: dict[str, list[Any]] = {}
    for kind in KINDS:
        seen[kind] = []
        for is_tcp in (False, True):
            with origins("b", "c") as made:
                nobody = Origin("a")
                nobody.port = free_port()
                hosts = [nobody, *made]
                config = _config(hosts, detection)
                if is_tcp:
                    listener = tcp_listener(free_port(), "some", max_connect_attempts=3)
                    config["static_resources"]["listeners"] = [listener]
                with proxy(kind, config) as started:
                    _ask(started, lambda hosts=hosts, started=started: _ejected(started, hosts) == ["a"])
                    counts = _counts(started)
                    seen[kind].append((_answer(started) in ("b", "c"), counts))
    assert seen["pymesh"] == seen["envoy"]


RATES = {
    "success rate": {
        "success_rate_minimum_hosts": 3,
        "success_rate_request_volume": 4,
        "success_rate_stdev_factor": 1000,
    },
    "failure percentage": {
        "enforcing_success_rate": 0,
        "failure_percentage_threshold": 30,
        "enforcing_failure_percentage": 100,
        "failure_percentage_minimum_hosts": 3,
        "failure_percentage_request_volume": 4,
    },
}


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
def test_rates(rates: Json) -> None:
    detection = {"interval": "0.5s", "consecutive_5xx": 0, **rates}
    seen = {}
    for kind in KINDS:
        with origins("a", "b", "c") as made, proxy(kind, _config(made, detection)) as started:
            made[0].behaviour = Behaviour(500)
            assert eventually(lambda: _worked(started, made), timeout=30)
            seen[kind] = {name: value for name, value in _counts(started).items() if "detected_success" not in name}
    assert seen["pymesh"] == seen["envoy"]


def _worked(started: Proxy, made: list[Origin]) -> bool:
    for _ in range(30):
        _answer(started)
    return _ejected(started, made) == ["a"]


def test_pages_show_what_is_known() -> None:
    """``/clusters`` has the same lines of health and success rates."""
    seen = {}
    detection = {"interval": "100s", "consecutive_5xx": 2}
    for kind in KINDS:
        with origins("a", "b", "c") as made, proxy(kind, _config(made, detection)) as started:
            made[0].behaviour = Behaviour(500)
            _ask(started, lambda: made[0].requests >= 2)
            assert eventually(lambda: _ejected(started, made) == ["a"])
            names = {str(one.port): one.name for one in made}
            lines = []
            for line in started.admin("/clusters").splitlines():
                if "health_flags" in line or "success_rate" in line:
                    for port, name in names.items():
                        line = line.replace(f"127.0.0.1:{port}", name)
                    lines.append(line)
            seen[kind] = sorted(lines)
    assert seen["pymesh"] == seen["envoy"]


def test_workers_share_an_ejection() -> None:
    """Failures that several workers have seen make one row, and all of them learn of the ejection."""
    seen = {}
    for kind in KINDS:
        with origins("a", "b", "c") as made:
            with proxy(kind, _config(made, {"consecutive_5xx": 8}), concurrency=4) as started:
                made[0].behaviour = Behaviour(500)
                # Each over a connection of its own, which any worker may get.
                _ask(started, lambda: made[0].requests >= 8)
                assert eventually(lambda: _ejected(started, made) == ["a"])
                asked = made[0].requests
                answers = [_answer(started) for _ in range(40)]
                seen[kind] = (_counts(started), "a" in answers, made[0].requests - asked)
    assert seen["pymesh"] == seen["envoy"]


def _config(made: list[Origin], detection: Json, route: Json | None = None) -> Json:
    some = cluster("some", [one.port for one in made], outlier_detection={**LONG, **detection})
    listener = http_listener(free_port(), [virtual_host("all", [to_cluster("some", **(route or {}))])])
    return bootstrap([listener], [some], free_port())


def _answer(started: Proxy, headers: dict[str, str] | None = None) -> str:
    """Who has answered a request over a connection of its own; nobody is empty."""
    connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=20)
    try:
        connection.request("GET", "/", headers=headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer.headers.get("x-host", "")
    except (http.client.HTTPException, ConnectionError, TimeoutError):
        return ""
    finally:
        connection.close()


def _ask(started: Proxy, until: Callable[[], bool], headers: dict[str, str] | None = None) -> None:
    # Envoy gathers changes of health for a second before its workers learn of them.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if until():
            return
        _answer(started, headers)
    raise AssertionError(f"{started.kind}: {_counts(started)}\n{started.admin('/clusters')}")


def _ejected(started: Proxy, made: list[Origin]) -> list[str]:
    flags = {}
    for line in started.admin("/clusters").splitlines():
        parts = line.split("::")
        if len(parts) == 4 and parts[2] == "health_flags":
            flags[parts[1].rpartition(":")[2]] = parts[3]
    return [one.name for one in made if "/failed_outlier_check" in flags[str(one.port)]]


def _settled(started: Proxy) -> dict[str, int]:
    """Envoy's main thread counts what its workers have found, a little later."""
    counts: list[dict[str, int]] = [{}, {"": 0}]

    def is_settled() -> bool:
        counts.append(_counts(started))
        return counts[-1] == counts[-2] == counts[-3]

    assert eventually(is_settled)
    return counts[-1]


def _counts(started: Proxy) -> dict[str, int]:
    prefix = "cluster.some.outlier_detection."
    return {name.removeprefix(prefix): n for name, n in started.stats().items() if name.startswith(prefix) and n}
