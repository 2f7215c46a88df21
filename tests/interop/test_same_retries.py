"""Ours and Envoy on the same bootstrap retry the same: how often, when not, and what is said of it.

For every case of the table: the answer, how often the origin was asked and what the last attempt told it, the line of
the access log, and by how much each counter of retries and timeouts has moved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools.ports import free_port
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Aborted, Headers, Request
from tests.tools.wire.origin import Origin, origin

LINE = "%REQ(X-CASE)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\n"
COUNTERS = (
    "retry_or_shadow_abandoned",
    "upstream_rq_max_duration_reached",
    "upstream_rq_per_try_idle_timeout",
    "upstream_rq_per_try_timeout",
    "upstream_rq_retry",
    "upstream_rq_retry_backoff_exponential",
    "upstream_rq_retry_backoff_ratelimited",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_overflow",
    "upstream_rq_retry_success",
    "upstream_rq_timeout",
    "upstream_rq_total",
)
INTERNAL: Headers = [("x-forwarded-for", "10.1.2.3")]
EXTERNAL: Headers = [("x-forwarded-for", "192.0.2.1")]


@dataclass(frozen=True)
class Case:
    """One request; `wants` is what the origin is asked to do."""

    route: str
    wants: tuple[str, ...] = ()
    headers: Headers = field(default_factory=list)
    method: str = "GET"
    body: bytes = b""

    def __str__(self) -> str:
        size = [f"with {len(self.body)} octets"] if self.body else []
        orders = [f"{name}={value}" for name, value in self.headers]
        return " ".join([self.method, self.route, *size, *self.wants, *orders])


def ordered(*orders: str, said_by: Headers = INTERNAL, wants: tuple[str, ...] = ("status=503",), **more: Any) -> Case:
    """A request that says itself how it is to be retried, to a route without a policy."""
    pairs = [order.split("=", 1) for order in orders]
    return Case("/plain", wants, [*said_by, *((f"x-envoy-{name}", value) for name, value in pairs)], **more)


CASES = [
    *(Case("/5xx", (f"status={status}",)) for status in ("503", "503|200", "500|503|200", "503|404", "200")),
    *(Case("/5xx", (f"reset={when}",)) for when in ("before", "before|", "after")),
    Case("/5xx", ("reset=before|", "status=200|503|204")),
    Case("/5xx-http2", ("reset=before|",)),
    Case("/5xx-http2", ("status=503|200",), method="POST", body=b"hello"),
    Case("/5xx", ("status=503|200",), method="POST", body=b"x" * 20_000),
    # More than may be kept
    Case("/5xx", ("status=503|200",), method="POST", body=b"x" * 300_000),
    Case("/none", ("status=503|200",)),
    Case("/none", ("reset=before",)),
    Case("/gateway", ("status=502|500",)),
    Case("/gateway", ("reset=before|",)),
    Case("/refused", ("reset=before|",)),
    Case("/before", ("reset=before|",), method="POST", body=b"hello"),
    Case("/before-down"),
    Case("/connect-down"),
    Case("/safe", ("reset=before|",), method="POST", body=b"hello"),
    Case("/safe", ("status=503|200",), method="POST", body=b"hello"),
    Case("/safe-down", method="POST", body=b"hello"),
    Case("/headers", ("header=x-again=1|",)),
    Case("/headers", ("header=x-other=1|",)),
    Case("/headers", ("header=x-again=0|",)),
    Case("/some", ("status=503|200",), [("x-idempotent", "yes")]),
    Case("/some", ("status=503|200",)),
    Case("/some", ("delay=2",)),
    Case("/5xx", ("status=503|200", "header=x-envoy-ratelimited=true|")),
    Case("/limited", ("status=503|200", "header=x-envoy-ratelimited=true|")),
    Case("/limited", ("status=503|200",)),
    Case("/told", ("status=503|200", "header=retry-after=1|")),
    Case("/told", ("status=503|200", "header=retry-after=10|")),
    Case("/told", ("status=503|200", "header=retry-after=0|")),
    Case("/told", ("status=503|200", "header=x-reset-at=5|")),
    Case("/codes", ("status=425|200",)),
    Case("/codes", ("status=425|200",), [("early-data", "1")]),
    Case("/codes", ("status=418|418",)),
    # Times
    Case("/try", ("delay=2|0",)),
    Case("/try", ("delay=2",)),
    Case("/try", ("delay=2",), method="POST", body=b"hello"),
    Case("/try-unwanted", ("delay=2",)),
    Case("/try-idle", ("delay=2|0",)),
    Case("/try-idle", ("stall=1",)),
    Case("/lives-briefly", ("delay=2",)),
    Case("/lives-briefly", ("stall=1",)),
    Case("/lives-briefly-again", ("delay=2|0",)),
    Case("/timeout", ("delay=2",)),
    Case("/timeout", ("status=503", "delay=0.2")),
    Case("/newer", ("delay=0.6",)),
    Case("/newer", ("delay=2",)),
    # What the request orders
    *(
        ordered(*orders, said_by=said_by, wants=wants)
        for said_by in (INTERNAL, EXTERNAL)
        for orders, wants in (
            (("retry-on=5xx",), ("status=503|503|200",)),
            (("retry-on=5xx,nonsense", "max-retries=3"), ("status=503|503|200",)),
            (("retry-on=retriable-status-codes", "retriable-status-codes=418,419"), ("status=419|200",)),
            (("retry-on=retriable-headers", "retriable-header-names=x-again"), ("header=x-again=1|",)),
            (("retry-grpc-on=unavailable",), ("header=grpc-status=14|",)),
            (("max-retries=3",), ("status=503|200",)),
            (("upstream-rq-timeout-ms=300",), ("delay=2",)),
            (("upstream-rq-per-try-timeout-ms=300",), ("delay=2",)),
            (("retry-on=5xx", "upstream-rq-per-try-timeout-ms=300"), ("delay=2|0",)),
            (("upstream-rq-timeout-ms=300", "upstream-rq-per-try-timeout-ms=400"), ("delay=2",)),
        )
    ),
    ordered("retry-on=5xx", said_by=[("x-forwarded-for", "10.1.2.3, 10.1.2.4")]),
    ordered("retry-on=5xx", said_by=[]),
    Case("/5xx", ("status=503",), [*INTERNAL, ("x-envoy-max-retries", "0")]),
    Case("/5xx", ("status=503",), [*INTERNAL, ("x-envoy-max-retries", "4")]),
]


@dataclass
class Pair:
    """Both proxies and the origins that they share."""

    proxies: dict[str, Proxy]
    logs: dict[str, Path]
    origins: list[Origin]

    def observe(self, kind: str, case: Case) -> dict[str, Any]:
        """Everything that has to be the same."""
        for behind in self.origins:
            behind.requests.clear()
        started = self.proxies[kind]
        before = _counters(started)
        mark = str(case).replace(" ", "_")
        wants = [("x-want-" + want.split("=", 1)[0], want.split("=", 1)[1]) for want in case.wants]
        headers: Headers = [("x-case", mark), *case.headers, *wants]
        seen: dict[str, Any] = {}
        try:
            answer = fetch(started.port, Request(case.method, case.route, "a.test", headers), case.body)
            seen["status"] = answer.status
            told = [*answer.headers, ("x-envoy-upstream-service-time", "")]
            seen["headers"] = sorted({name for name, _ in told if name.startswith("x-envoy-")})
            seen["body"] = answer.body if answer.header("x-origin") is None else ""
        except Aborted:
            seen["aborted"] = True
        assert eventually(lambda: _is_idle(started)), started.active()
        reached = [request for behind in self.origins for request in behind.requests]
        seen["reached"] = len(reached)
        seen["last"] = sorted(name for name, _ in reached[-1].headers if name.startswith("x-envoy-")) if reached else []
        seen["counters"] = {name: value - before[name] for name, value in _counters(started).items()}
        seen["log"] = self._line(kind, mark)
        return seen

    def _line(self, kind: str, mark: str) -> str:
        def found() -> list[str]:
            text = self.logs[kind].read_text() if self.logs[kind].exists() else ""
            return [line for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith(f"{mark} ")]

        assert eventually(lambda: bool(found()))
        # Envoy's details go on with what the system said of the connection.
        return re.sub(r"\|[^}]*}", "}", found()[-1])


def _is_idle(started: Proxy) -> bool:
    return not any(name.endswith("_rq_active") for name in started.active())


def _counters(started: Proxy) -> dict[str, int]:
    stats = started.stats()
    names = [f"cluster.{name}.{counter}" for name in ("a", "brief", "c", "down") for counter in COUNTERS]
    return {name: stats.get(name, 0) for name in names}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        one, two = stack.enter_context(origin("a")), stack.enter_context(origin("c", http2=True))
        nobody, logs, proxies = free_port(), {}, {}
        for kind in ("envoy", "pymesh"):
            logs[kind] = folder / kind
            brief = {"common_http_protocol_options": {"max_stream_duration": "0.3s"}}
            clusters = [
                cluster("a", [one.port]),
                cluster("c", [two.port], http2=True),
                cluster("down", [nobody]),
                with_options(cluster("brief", [one.port]), brief),
            ]
            host = virtual_host(
                "all", routes(), include_request_attempt_count=True, include_attempt_count_in_response=True
            )
            trusted = {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}
            listener = http_listener(
                free_port(), [host], internal_address_config=trusted, access_log=[access_log(logs[kind], LINE)]
            )
            listener["per_connection_buffer_limit_bytes"] = 65536
            proxies[kind] = stack.enter_context(proxy(kind, bootstrap([listener], clusters, free_port())))
        yield Pair(proxies, logs, [one, two])


def with_options(made: Json, options: Json) -> Json:
    """A cluster with more HTTP protocol options."""
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    general: Json = {
        "@type": f"type.googleapis.com/{name}",
        "explicit_http_config": {"http_protocol_options": {}},
    }
    known = made.get("typed_extension_protocol_options", {}).get(name, general)
    return {**made, "typed_extension_protocol_options": {name: {**known, **options}}}


def routes() -> list[Json]:
    """A route for each policy."""

    def retry(prefix: str, on: str, to: str = "a", *, action: Json | None = None, **policy: Any) -> Json:
        full = {
            "retry_on": on,
            "num_retries": 2,
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"},
            **policy,
        }
        return {"match": {"path": prefix}, "route": {"cluster": to, "retry_policy": full, **(action or {})}}

    told = [{"name": "retry-after", "format": "SECONDS"}, {"name": "x-reset-at", "format": "UNIX_TIMESTAMP"}]
    again = {"name": "x-again", "string_match": {"exact": "1"}}
    return [
        retry("/5xx", "5xx"),
        retry("/5xx-http2", "5xx", "c"),
        retry("/none", "5xx", num_retries=0),
        retry("/gateway", "gateway-error"),
        retry("/refused", "refused-stream"),
        retry("/before", "reset-before-request"),
        retry("/before-down", "reset-before-request", "down"),
        retry("/connect-down", "connect-failure", "down"),
        retry("/safe", "connect-failure,refused-stream,reset-before-request"),
        retry("/safe-down", "connect-failure,refused-stream,reset-before-request", "down"),
        retry("/headers", "retriable-headers", retriable_headers=[again]),
        retry("/some", "5xx", retriable_request_headers=[{"name": "x-idempotent"}], per_try_timeout="0.3s"),
        retry("/limited", "envoy-ratelimited"),
        retry("/told", "5xx", rate_limited_retry_back_off={"reset_headers": told, "max_interval": "5s"}),
        retry("/codes", "retriable-status-codes", retriable_status_codes=[418, 425]),
        retry("/try", "5xx", per_try_timeout="0.3s", num_retries=1),
        retry("/try-unwanted", "retriable-4xx", per_try_timeout="0.3s"),
        retry("/try-idle", "5xx", per_try_idle_timeout="0.3s"),
        to_cluster("brief", "/lives-briefly-again", retry_policy={"retry_on": "5xx", "num_retries": 1}),
        to_cluster("brief", "/lives-briefly"),
        retry("/timeout", "5xx", num_retries=9, action={"timeout": "0.5s"}),
        to_cluster("a", "/newer", timeout="0.3s", max_stream_duration={"max_stream_duration": "1s"}),
        to_cluster("a", "/plain"),
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_attempts(case: Case, pair: Pair) -> None:
    assert pair.observe("pymesh", case) == pair.observe("envoy", case)
