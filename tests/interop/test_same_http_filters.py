"""Fault injection, CORS and local rate limits: ours and Envoy do the same with random configurations.

Each seed makes chains of the three filters in various orders, switched on and off, with configuration at every level of
a route table, and requests that try them. Compared are answer, access log (flags and details) and counters. Shares of
requests are none or all, and buckets do not fill while a test lasts, so that nothing is a matter of luck or time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.ports import free_port
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Headers, Request
from tests.tools.wire.origin import origin

KINDS = ("pymesh", "envoy")
SEEDS = range(4)
REQUESTS = 220
LINE = "%REQ(X-CASE)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_CLUSTER%\n"
VOLATILE = {"date", "x-request-id", "x-envoy-upstream-service-time", "content-length", "x-ratelimit-reset"}

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_ROUTE = "type.googleapis.com/envoy.config.route.v3"
TYPES = {
    "cors": f"{_HTTP}.cors.v3.Cors",
    "fault": f"{_HTTP}.fault.v3.HTTPFault",
    "limit": f"{_HTTP}.local_ratelimit.v3.LocalRateLimit",
}
ORIGINS = ["https://shop.test", "https://api.shop.test", "http://other.test", "*", ""]
HOSTS = ["one.test", "two.test", "three.test"]
PREFIXES = ["/a", "/b", "/direct", "/"]


class Chance(random.Random):
    """Draws parts of a configuration."""

    def maybe(self, part: Json, share: float = 0.5) -> Json:
        """The part, or nothing."""
        return part if self.random() < share else {}

    def percentage(self) -> Json:
        """None or all, in each unit."""
        unit, whole = self.choice([("HUNDRED", 100), ("TEN_THOUSAND", 10_000), ("MILLION", 1_000_000)])
        return {"numerator": self.choice([whole, whole, whole, 0]), "denominator": unit}

    def enabled(self, name: str, share: float = 0.5) -> Json:
        """A runtime share without a runtime."""
        return self.maybe({name: {"default_value": self.percentage()}}, share)

    def fault(self) -> Json:
        """HTTPFault."""
        status = self.choice([{"http_status": 503}, {"http_status": 418}, {"grpc_status": 9}, {"header_abort": {}}])
        time = self.choice([{"fixed_delay": "0.004s"}, {"header_delay": {}}])
        match = {"name": "x-victim", "string_match": {"exact": "yes"}}
        return {
            "@type": TYPES["fault"],
            **self.maybe({"abort": {**status, "percentage": self.percentage()}}, 0.6),
            **self.maybe({"delay": {**time, "percentage": self.percentage()}}, 0.5),
            **self.maybe({"upstream_cluster": self.choice("ab")}, 0.2),
            **self.maybe({"headers": [match]}, 0.3),
            **self.maybe({"downstream_nodes": ["n1", "n2"]}, 0.2),
            **self.maybe({"max_active_faults": self.choice([0, 100])}, 0.2),
            "disable_downstream_cluster_stats": True,
        }

    def cors(self) -> Json:
        """CorsPolicy."""
        origins = [
            {"exact": "https://shop.test"},
            {"suffix": ".shop.test"},
            {"safe_regex": {"regex": "http://.*"}},
            {"exact": "*"},
            {"prefix": "HTTPS://", "ignore_case": True},
        ]
        return {
            "@type": f"{_HTTP}.cors.v3.CorsPolicy",
            **self.maybe({"allow_origin_string_match": self.sample(origins, self.randint(1, 2))}, 0.8),
            **self.maybe({"allow_methods": self.choice(["GET, PUT", "*"])}),
            **self.maybe({"allow_headers": self.choice(["x-one,x-two", "*"])}),
            **self.maybe({"expose_headers": self.choice(["x-seen", "*"])}),
            **self.maybe({"max_age": "600"}),
            **self.maybe({"allow_credentials": self.random() < 0.7}),
            **self.maybe({"allow_private_network_access": self.random() < 0.7}),
            **self.maybe({"forward_not_matching_preflights": self.random() < 0.5}),
            **self.enabled("filter_enabled"),
            **self.enabled("shadow_enabled", 0.3),
        }

    def bucket(self) -> Json:
        """A bucket that stays as it is for an hour and more."""
        bucket: Json = {"max_tokens": self.randint(1, 6), "fill_interval": f"{self.randint(1, 3) * 7200}s"}
        return {**bucket, **self.maybe({"tokens_per_fill": 1})}

    def limit(self, *, is_own: bool) -> Json:
        """LocalRateLimit."""
        entries = [
            [{"key": "user", "value": "ann"}],
            [{"key": "user", "value": ""}],
            [{"key": "generic_key", "value": "all"}],
            [{"key": "to", "value": "x"}, {"key": "user", "value": ""}],
            [{"key": "header_match", "value": "victim"}],
            [{"key": "destination_cluster", "value": "a"}],
            [{"key": "remote_address", "value": "127.0.0.1"}],
            [{"key": "masked_remote_address", "value": "127.0.0.0/8"}],
            [{"key": "source_cluster", "value": "test"}],
            [{"key": "query_match", "value": "q"}],
            [{"key": "page", "value": "1"}],
        ]
        descriptors = [
            {"entries": one, "token_bucket": self.bucket()} for one in self.sample(entries, self.randint(1, 4))
        ]
        return {
            "@type": TYPES["limit"],
            "stat_prefix": self.choice(["limit_one", "limit_two"]),
            **self.maybe({"token_bucket": self.bucket()}, 1 if is_own else 0.7),
            **self.enabled("filter_enabled", 0.9),
            **self.enabled("filter_enforced", 0.9),
            **self.maybe({"status": {"code": self.choice([503, 403, 200])}}, 0.3),
            **self.maybe({"descriptors": descriptors}, 0.6),
            **self.maybe({"always_consume_default_token_bucket": self.random() < 0.5}),
            **self.maybe({"max_dynamic_descriptors": self.randint(1, 3)}, 0.3),
            **self.maybe({"enable_x_ratelimit_headers": "DRAFT_VERSION_03"}, 0.6),
            **self.maybe({"rate_limited_as_resource_exhausted": True}),
            **self.maybe({"vh_rate_limits": self.choice(["OVERRIDE", "INCLUDE", "IGNORE"])}),
            **self.maybe({"rate_limits": self.policies(staged=False)}, 0.3),
            **self.maybe({"stage": 1}, 0.1),
            **self.maybe({"response_headers_to_add": [_header("x-limited", "%REQ(x-user)%")]}, 0.4),
            **self.maybe({"request_headers_to_add_when_not_enforced": [_header("x-over", "%REQ(:path)%")]}, 0.4),
            **self.maybe({"local_rate_limit_per_downstream_connection": True}, 0.1),
        }

    def policies(self, *, staged: bool = True) -> list[Json]:
        """Policies that make descriptors; only those of routes have stages."""
        victim = {"name": "x-victim", "string_match": {"exact": "yes"}}
        user = {"request_headers": {"header_name": "x-user", "descriptor_key": "user", "skip_if_absent": False}}
        page = {"query_parameter_name": "page", "descriptor_key": "page"}
        policies: list[list[Json]] = [
            [user],
            [{"generic_key": {"descriptor_value": "all"}}],
            [{"generic_key": {"descriptor_value": "x", "descriptor_key": "to"}}, user],
            [{"header_value_match": {"descriptor_value": "victim", "headers": [victim], "expect_match": True}}],
            [{"header_value_match": {"descriptor_value": "victim", "headers": [victim], "expect_match": False}}],
            [{"destination_cluster": {}}],
            [{"remote_address": {}}],
            [{"masked_remote_address": {"v4_prefix_mask_len": 8}}],
            [{"source_cluster": {}}],
            [{"query_parameter_value_match": {"descriptor_value": "q", "query_parameters": [{"name": "q"}]}}],
            [{"query_parameters": {**page, **self.maybe({"skip_if_absent": True})}}],
        ]
        chosen = self.sample(policies, self.randint(1, 3))
        return [{"actions": actions, **self.maybe({"stage": 1}, 0.1 * staged)} for actions in chosen]

    def said(self, share: float) -> Json:
        """What one level says of the filters."""
        said: Json = {}
        for name in self.sample(sorted(TYPES), 3):
            if self.random() > share:
                continue
            config = self.own(name)
            wrapped = {"@type": f"{_ROUTE}.FilterConfig", "config": config}
            off = {"@type": f"{_ROUTE}.FilterConfig", "disabled": True}
            on = {"@type": f"{_ROUTE}.FilterConfig", "config": {}}
            said[name] = self.choice([config, config, config, wrapped, off, on])
        return {"typed_per_filter_config": said} if said else {}

    def own(self, name: str) -> Json:
        """Configuration of a route."""
        return {"cors": self.cors, "fault": self.fault, "limit": lambda: self.limit(is_own=True)}[name]()


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}}


class Case:
    """Chains, tables and requests of a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = Chance(seed)
        self.listeners = [self._listener(f"in{number}") for number in range(3)]
        self.requests = [self._request(number) for number in range(REQUESTS)]

    def _listener(self, name: str) -> Json:
        chance = self.chance
        general = {"cors": {}, "fault": chance.fault(), "limit": chance.limit(is_own=False)}
        filters = [
            {
                "name": one,
                "typed_config": {"@type": TYPES[one], **general[one]},
                **chance.maybe({"disabled": True}, 0.2),
            }
            for one in chance.sample(sorted(TYPES), 3)
        ]
        router = {"name": "router", "typed_config": {"@type": f"{_HTTP}.router.v3.Router"}}
        hosts = [
            virtual_host(
                host,
                [self._route(prefix) for prefix in PREFIXES],
                [host],
                **chance.said(0.4),
                **chance.maybe({"rate_limits": chance.policies()}, 0.6),
            )
            for host in HOSTS
        ]
        table = {"name": name, "virtual_hosts": hosts, **chance.said(0.2)}
        return {"stat_prefix": name, "http_filters": [*filters, router], "route_config": table}

    def _route(self, prefix: str) -> Json:
        chance = self.chance
        route: Json
        if prefix == "/direct":
            route = {"match": {"prefix": prefix}, "direct_response": {"status": 200, "body": {"inline_string": "d"}}}
        elif prefix == "/b":
            share = {"name": "b", "weight": 1, **chance.said(0.4)}
            none = {"name": "a", "weight": 0}
            route = {"match": {"prefix": prefix}, "route": {"weighted_clusters": {"clusters": [none, share]}}}
        else:
            route = to_cluster("a", prefix, **chance.maybe({"rate_limits": chance.policies()}, 0.6))
        added = [_header("access-control-expose-headers", "by-route")]
        return {**route, **chance.said(0.5), **chance.maybe({"response_headers_to_add": added}, 0.2)}

    def _request(self, number: int) -> tuple[int, Request, bool]:
        chance = self.chance
        headers: list[tuple[str, str]] = [("x-case", str(number))]
        for name, values, share in (
            ("origin", ORIGINS, 0.6),
            ("access-control-request-method", ["PUT", ""], 0.4),
            ("access-control-request-headers", ["x-one", "x-three"], 0.3),
            ("access-control-request-private-network", ["true", "false"], 0.3),
            ("x-victim", ["yes", "no"], 0.6),
            ("x-user", ["ann", "bob", "cid"], 0.6),
            ("x-envoy-downstream-service-node", ["n1", "n3"], 0.5),
            ("x-envoy-fault-delay-request", ["3", "0", "x", "-1"], 0.4),
            ("x-envoy-fault-delay-request-percentage", ["100", "0", "x"], 0.3),
            ("x-envoy-fault-abort-request", ["500", "404", "100", "x"], 0.4),
            ("x-envoy-fault-abort-grpc-request", ["5", "x"], 0.3),
            ("x-envoy-fault-abort-request-percentage", ["100", "0", "x"], 0.3),
        ):
            if chance.random() < share:
                headers.append((name, chance.choice(values)))
        is_grpc = chance.random() < 0.2
        if is_grpc:
            headers.append(("content-type", "application/grpc"))
        method = "POST" if is_grpc else chance.choice(["GET", "OPTIONS", "OPTIONS", "HEAD"])
        target = chance.choice(PREFIXES) + chance.choice(["", "?q=1", "?page=1&q"])
        request = Request(method, target, chance.choice(HOSTS), headers)
        use_http2 = is_grpc or (method != "HEAD" and chance.random() < 0.3)
        return chance.randrange(len(self.listeners)), request, use_http2

    def bootstrap(self, origins: dict[str, int], log: Path) -> Json:
        """The bootstrap for one proxy."""
        logs = {"access_log": [access_log(log, LINE)]}
        listeners = [
            http_listener(free_port(), [], name=manager["stat_prefix"], **manager, **logs) for manager in self.listeners
        ]
        return bootstrap(listeners, [cluster(name, [port]) for name, port in origins.items()], free_port())


@pytest.fixture(scope="module")
def origins() -> Iterator[dict[str, int]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(origin(name)).port for name in ("a", "b")}


@pytest.mark.parametrize("seed", SEEDS)
def test_same_with_random_filters(seed: int, origins: dict[str, int], tmp_path: Path) -> None:
    case = Case(seed)
    seen: dict[str, list[dict[str, Any]]] = {}
    counted: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        log = tmp_path / kind
        with proxy(kind, case.bootstrap(origins, log)) as started:
            seen[kind] = [_ask(started, *asked) for asked in case.requests]
            logged = _lines(log, len(case.requests))
            assert eventually(lambda: not _active(started)), "nobody suffers any more"
            counted[kind] = _counters(started)
        for number, answer in enumerate(seen[kind]):
            answer["log"] = logged[str(number)]
    wrong = [
        f"request {number} {case.requests[number]}:\n  ours    {ours}\n  Envoy's {theirs}"
        for number, (ours, theirs) in enumerate(zip(seen["pymesh"], seen["envoy"], strict=True))
        if ours != theirs
    ]
    assert not wrong, f"{len(wrong)} of {REQUESTS} differ with seed {seed}:\n" + "\n".join(wrong[:8])
    # A counter that never counted is there from the start with Envoy, for us with its filter.
    nonzero = {kind: {name: value for name, value in numbers.items() if value} for kind, numbers in counted.items()}
    assert nonzero["pymesh"] == nonzero["envoy"]
    assert set(counted["pymesh"]) <= set(counted["envoy"])
    flags = {answer["log"].split(" ")[1] for answer in seen["pymesh"]}
    assert {"FI", "RL"} <= {flag for one in flags for flag in one.split(",")}, "the seed tries what it is to try"


def _ask(started: Proxy, listener: int, request: Request, use_http2: bool) -> dict[str, Any]:
    body = b"x" if request.method == "POST" else b""
    answer = fetch(started.ports[listener], request, body, use_http2=use_http2)
    from_origin = answer.header("x-origin") is not None
    return {
        "status": answer.status,
        "headers": _settled(answer.headers, request.method),
        "trailers": sorted(answer.trailers),
        "body": b"" if from_origin else answer.body,
        "over": _told(answer.body) if from_origin else [],
    }


def _told(report: bytes) -> list[str]:
    """What the origin was told of a limit that is not enforced."""
    headers = json.loads(report)["headers"] if report else []
    return [value for name, value in headers if name == "x-over"]


def _settled(headers: Headers, method: str) -> list[tuple[str, str]]:
    # To HEAD Envoy announces chunks that never come, and whether a connection stays open is not what this is about.
    left_out = {"connection", "transfer-encoding", *({"content-length"} if method == "HEAD" else set())}
    return sorted((name, "*" if name in VOLATILE else value) for name, value in headers if name not in left_out)


def _lines(log: Path, count: int) -> dict[str, str]:
    assert eventually(lambda: len(lines_of(log)) >= count)
    return dict(line.split(" ", 1) for line in lines_of(log))  # type: ignore[misc]


def _active(started: Proxy) -> int:
    return sum(value for name, value in started.stats().items() if name.endswith(".active_faults"))


def _counters(started: Proxy) -> dict[str, int]:
    wanted = (".cors.", ".fault.", ".http_local_rate_limit.")
    left_out = ("response_rl_injected",)
    return {
        name: value
        for name, value in started.stats().items()
        if any(part in name for part in wanted) and not name.endswith(left_out)
    }
