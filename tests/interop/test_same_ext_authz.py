"""External authorization: ours and Envoy ask a service the same, and do the same with what it says.

Each seed makes a filter of random configuration, routes that say something of it, and answers that a scripted service
gives; the same requests are sent through both proxies. Compared are the answer, what the origin and the service were
told, the access log (flags, details, dynamic metadata) and counters.

Where the service's answer cannot be carried out, ours always refuses the request; Envoy does so with
`validate_mutations`, which is therefore set. An answer that says nothing, or contradicts itself, lets nobody pass with
ours; Envoy lets them pass (`test_what_says_nothing_lets_nobody_pass`). Headers that Envoy keeps in one field
(`content-type` and the like) are not among those that are added twice.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.authorizer import PLAIN, Authorizer, Plain, Raw, grpc_authorizer, http_authorizer
from tests.tools.ports import free_port
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import origin

KINDS = ("pymesh", "envoy")
SEEDS = range(6)
REQUESTS = 120
METADATA = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%"
LINE = f"%REQ(X-CASE)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_CLUSTER% {METADATA}\n"
VOLATILE = {"date", "x-request-id", "x-envoy-upstream-service-time", "content-length"}
#: What each proxy says of itself.
OF_PROXY = {"x-request-id", "x-forwarded-for", "x-envoy-expected-rq-timeout-ms", "x-envoy-upstream-service-time"}

_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
AUTHZ = f"{_FILTERS}.ext_authz.v3.ExtAuthz"
ROUTER = {"name": "router", "typed_config": {"@type": f"{_FILTERS}.router.v3.Router"}}
HOSTS = ["one.test", "two.test"]
PREFIXES = ["/a", "/direct", "/off", "/"]


def option(name: str, value: str, **more: Any) -> Json:
    """`HeaderValueOption`."""
    return {"header": {"key": name, "value": value}, **more}


class Chance(random.Random):
    """Draws configuration, answers and requests."""

    def maybe(self, part: Json, share: float = 0.5) -> Json:
        """The part, or nothing."""
        return part if self.random() < share else {}

    def patterns(self) -> Json:
        """`ListStringMatcher` over names of headers."""
        some: list[Json] = [
            {"prefix": "x-"},
            {"exact": "x-user"},
            {"exact": "cookie"},
            {"suffix": "-tag"},
            {"safe_regex": {"regex": "x-[a-m].*"}},
            {"contains": "ro", "ignore_case": True},
        ]
        return {"patterns": [{"exact": "x-ask"}, *self.sample(some, self.randint(0, 3))]}

    def body(self) -> Json:
        """`BufferSettings`."""
        return {
            "max_request_bytes": self.choice([1, 5, 64]),
            **self.maybe({"allow_partial_message": True}),
            **self.maybe({"pack_as_bytes": True}),
        }

    def filter(self, *, http: bool) -> Json:
        """`ExtAuthz`."""
        service = {"http_service": self.http_service()} if http else {"grpc_service": self.grpc_service()}
        picked = {
            "filter": "envoy.filters.http.rbac",
            "path": [{"key": "custom_shadow_effective_policy_id"}],
            "value": {"string_match": {"prefix": "p"}},
            **self.maybe({"invert": True}, 0.2),
        }
        share = {"default_value": {"numerator": self.choice([0, 100, 100])}}
        return {
            "@type": AUTHZ,
            "transport_api_version": "V3",
            **service,
            "validate_mutations": True,
            **self.maybe({"failure_mode_allow": True}, 0.3),
            **self.maybe({"failure_mode_allow_header_add": True}),
            **self.maybe({"with_request_body": self.body()}),
            **self.maybe({"clear_route_cache": True}),
            **self.maybe({"status_on_error": {"code": self.choice([502, 404])}}, 0.4),
            **self.maybe({"stat_prefix": "waf"}, 0.3),
            **self.maybe({"filter_enabled": share}, 0.3),
            # As Istio's CUSTOM: only of requests that a policy in front has picked out.
            **self.maybe({"filter_enabled_metadata": picked}, 0.3),
            **self.maybe({"deny_at_disable": {"default_value": True, "runtime_key": "authz.deny"}}, 0.3),
            # A service of HTTP is told by its headers what to answer, so that one is always shown.
            **self.maybe({"allowed_headers": self.patterns()}, 1 if http else 0.4),
            **self.maybe({"disallowed_headers": {"patterns": [{"exact": self.choice(["x-user", "a-tag"])}]}}, 0.3),
            **self.maybe({"metadata_context_namespaces": ["envoy.filters.http.rbac", "none"]}, 0.5),
            **self.maybe({"include_tls_session": True}, 0.3),
            **self.maybe({"enable_dynamic_metadata_ingestion": False}, 0.2),
            **self.maybe({"max_denied_response_body_bytes": 4}, 0.2),
        }

    def grpc_service(self) -> Json:
        """`GrpcService`."""
        added = {
            "initial_metadata": [{"key": "x-asked-by", "value": "test"}, {"key": "x-path", "value": "%REQ(:path)%"}]
        }
        authority = self.maybe({"authority": "authz.test"})
        return {"envoy_grpc": {"cluster_name": "authz", **authority}, "timeout": "20s", **self.maybe(added)}

    def http_service(self) -> Json:
        """`HttpService`."""
        lists = (
            "allowed_upstream_headers",
            "allowed_upstream_headers_to_append",
            "allowed_client_headers",
            "allowed_client_headers_on_success",
            "dynamic_metadata_from_headers",
        )
        answer: Json = {}
        for name in lists:
            answer |= self.maybe({name: {"patterns": [{"exact": one} for one in self.sample(ANSWERED, 3)]}})
        added = [{"key": "x-asked-by", "value": "test"}, {"key": "x-path", "value": "%REQ(:path)%"}]
        return {
            "server_uri": {"uri": "http://authz.test/ignored", "cluster": "authz", "timeout": "20s"},
            **self.maybe({"path_prefix": "/check"}),
            **self.maybe({"authorization_request": {"headers_to_add": added}}),
            **({"authorization_response": answer} if answer else {}),
        }

    def said(self, share: float) -> Json:
        """What a level of the route table says."""
        settings: Json = {
            **self.maybe({"context_extensions": {self.choice("abc"): self.choice("123"), "d": "4"}}, 0.7),
            **self.choice([{}, {"disable_request_body_buffering": True}, {"with_request_body": self.body()}]),
        }
        per_route = {"@type": f"{_FILTERS}.ext_authz.v3.ExtAuthzPerRoute", "check_settings": settings}
        return self.maybe({"typed_per_filter_config": {"authz": per_route}}, share)

    def denial(self) -> Json:
        """`DeniedHttpResponse`."""
        headers = [
            option("x-why", "no", **self.maybe({"append": self.random() < 0.5})),
            option("set-cookie", "a=1"),
            option("set-cookie", "b=2", append_action=self.choice(["ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS"])),
            option("content-type", "text/html"),
        ]
        return {
            **self.maybe({"status": {"code": self.choice([401, 302, 429, 200, 503])}}, 0.7),
            **self.maybe({"headers": self.sample(headers, self.randint(1, 3))}, 0.7),
            **self.maybe({"body": "no entry"}),
        }

    def permission(self) -> Json:
        """`OkHttpResponse`."""
        actions = ["APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS"]

        def options(names: list[str]) -> list[Json]:
            return [
                option(
                    name,
                    self.choice(["1", "two", ""]),
                    **self.maybe({"append": self.random() < 0.5}, 0.4),
                    **self.maybe({"append_action": self.choice(actions)}),
                )
                for name in self.choices(names, k=self.randint(1, 4))
            ]

        query = [{"key": self.choice(["a", "q", "new"]), "value": self.choice(["9", ""])} for _ in range(2)]
        return {
            **self.maybe({"headers": options(["x-user", "x-new", "a-tag", "x-Route"])}, 0.7),
            **self.maybe({"headers_to_remove": ["x-user", "Cookie", ":path", "host"]}, 0.4),
            **self.maybe({"response_headers_to_add": options(["x-out", "x-origin", "x-more"])}, 0.5),
            **self.maybe({"query_parameters_to_set": query}, 0.3),
            **self.maybe({"query_parameters_to_remove": ["b", "q"]}, 0.3),
            **self.maybe({"dynamic_metadata": {"old": "place"}}, 0.1),
        }

    def answer(self) -> Any:
        """What a service of gRPC says to one kind of request."""
        metadata = self.maybe({"dynamic_metadata": {"n": 1.5, "s": "t", "l": [1, "a", None], "o": {"t": True}}}, 0.3)
        kind = self.random()
        if kind < 0.45:
            return {"status": {"code": 0}, "ok_response": self.permission(), **metadata}
        if kind < 0.75:
            return {"status": {"code": 7}, **self.maybe({"denied_response": self.denial()}, 0.8), **metadata}
        broken = [
            {"status": {"code": 13}, "error_response": {"status": {"code": 503}, "body": "down"}},
            {"status": {"code": 13}, "error_response": {"body": "down"}},
            {"status": {"code": 7}, "ok_response": {"headers": [option("x-user", "1")]}},
            {"status": {"code": 0}, "ok_response": {"headers": [option("x bad", "1")]}},
            {"status": {"code": 0}, "ok_response": {"headers": [option("x-bad", "a\nb")]}},
            {"status": {"code": 0}, "ok_response": {"response_headers_to_add": [option("x bad", "1")]}},
            {"status": {"code": 0}, "ok_response": {"query_parameters_to_set": [{"key": "a", "value": "b c"}]}},
            {"status": {"code": 7}, "denied_response": {"headers": [option("x bad", "1")]}},
            {"status": {"code": 0}, "ok_response": {"headers": [option(f"x-{n}", "1") for n in range(120)]}},
            "UNAVAILABLE",
            "PERMISSION_DENIED",
            Raw(b"\xff\xff"),
        ]
        return copy.deepcopy(self.choice(broken))

    def plain(self) -> Plain:
        """What a service of HTTP says to one kind of request."""
        status = self.choice([200, 200, 200, 403, 401, 302, 404, 201, 204, 500, 503])
        headers = [
            ("x-user", "auth"),
            ("x-why", "because"),
            ("x-why", "twice"),
            ("www-authenticate", "Basic"),
            ("location", "/login"),
            ("set-cookie", "a=1"),
            ("x-envoy-auth-headers-to-remove", "cookie, X-Gone"),
        ]
        body = b"" if status in (204,) else self.choice([b"", b"said so"])
        return Plain(status, tuple(self.sample(headers, self.randint(0, 5))), body)


#: Names that a service of HTTP answers with.
ANSWERED = ["x-user", "x-why", "set-cookie", "www-authenticate", "x-none"]


class Case:
    """The configuration, the service's script and the requests of a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = Chance(seed)
        self.is_http = seed % 3 == 2
        self.filter = chance.filter(http=self.is_http)
        self.hosts = [
            virtual_host(host, [self._route(prefix) for prefix in PREFIXES], [host], **chance.said(0.4))
            for host in HOSTS
        ]
        draw = chance.plain if self.is_http else chance.answer
        self.script: dict[str, Any] = {f"s{number}": draw() for number in range(40)}
        self.requests = [self._request(number) for number in range(REQUESTS)]

    def _route(self, prefix: str) -> Json:
        chance = self.chance
        if prefix == "/direct":
            direct = {"status": 200, "body": {"inline_string": "d"}}
            return {"match": {"prefix": prefix}, "direct_response": direct, **chance.said(0.3)}
        if prefix == "/off":
            per_route = {"@type": f"{_FILTERS}.ext_authz.v3.ExtAuthzPerRoute", "disabled": True}
            return {**to_cluster("a", prefix), "typed_per_filter_config": {"authz": per_route}}
        header = {"name": "x-route", "string_match": {"exact": "two"}}
        route = to_cluster("b" if prefix == "/a" else "a", prefix)
        # Where a request goes that has been changed so.
        match = {**route["match"], **({"headers": [header]} if prefix == "/a" else {})}
        return {**route, "match": match, **chance.said(0.5)}

    def _request(self, number: int) -> tuple[Request, bytes, bool]:
        chance = self.chance
        headers = [("x-case", str(number)), ("x-ask", chance.choice([*self.script, PLAIN]))]
        for name, values, share in (
            ("x-user", ["ann", "b\u00e9"], 0.6),
            ("cookie", ["k=v"], 0.4),
            ("authorization", ["Basic x"], 0.4),
            ("a-tag", ["1"], 0.4),
            ("x-multi", ["1"], 0.3),
            ("x-multi", ["2"], 0.3),
            ("x-envoy-auth-partial-body", ["mine"], 0.1),
            ("x-envoy-downstream-service-cluster", ["caller"], 0.2),
        ):
            if chance.random() < share:
                headers.append((name, chance.choice(values)))
        is_grpc = chance.random() < 0.15
        if is_grpc:
            headers.append(("content-type", "application/grpc"))
        body = chance.choice([b"", b"", b"abc", b"abcdefgh", b"\xff\xfe" * 5, b"x" * 200]) if not is_grpc else b"\0" * 5
        method = "POST" if body else chance.choice(["GET", "HEAD", "PUT"])
        target = chance.choice(PREFIXES) + chance.choice(["", "?a=1&b=2&q=3", "?q", "?b=2&a=1&a=2"])
        use_http2 = is_grpc or (method != "HEAD" and chance.random() < 0.3)
        return Request(method, target, chance.choice(HOSTS), headers), body, use_http2

    def bootstrap(self, origins: dict[str, int], service: int, log: Path) -> Json:
        """The bootstrap for one proxy."""
        shadow = {"shadow_rules": _shadow(), "shadow_rules_stat_prefix": "custom_"}
        rbac = {"name": "rbac", "typed_config": {"@type": f"{_FILTERS}.rbac.v3.RBAC", **shadow}}
        listener = http_listener(
            free_port(),
            self.hosts,
            http_filters=[rbac, {"name": "authz", "typed_config": self.filter}, ROUTER],
            access_log=[access_log(log, LINE)],
        )
        clusters = [cluster(name, [port]) for name, port in origins.items()]
        return bootstrap([listener], [*clusters, cluster("authz", [service], http2=not self.is_http)], free_port())


def _shadow() -> Json:
    """A policy that matches half of the requests, and tells the filter behind."""
    header = {"header": {"name": "x-user", "present_match": True}}
    return {"action": "DENY", "policies": {"p": {"permissions": [header], "principals": [{"any": True}]}}}


@pytest.fixture(scope="module")
def origins() -> Iterator[dict[str, int]]:
    with origin("a") as a, origin("b") as b:
        yield {"a": a.port, "b": b.port}


@contextmanager
def authorizer(is_http: bool) -> Iterator[Authorizer]:
    """The service, of either kind."""
    with http_authorizer() if is_http else grpc_authorizer() as made:
        yield made


@pytest.mark.parametrize("seed", SEEDS)
def test_same_with_random_answers(seed: int, origins: dict[str, int], tmp_path: Path) -> None:
    case = Case(seed)
    seen: dict[str, list[dict[str, Any]]] = {}
    counted: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        log = tmp_path / kind
        with authorizer(case.is_http) as service:
            service.script.update(case.script)
            with proxy(kind, case.bootstrap(origins, service.port, log)) as started:
                seen[kind] = [_ask(started, service, *asked) for asked in case.requests]
                logged = _lines(log, len(case.requests))
                counted[kind] = _counters(started)
        for number, answer in enumerate(seen[kind]):
            answer["log"] = logged[str(number)]
    wrong = [
        f"request {number} {case.requests[number]} {case.script.get(case.requests[number][0].header('x-ask') or '')}:\n"
        f"  ours    {ours}\n  Envoy's {theirs}"
        for number, (ours, theirs) in enumerate(zip(seen["pymesh"], seen["envoy"], strict=True))
        if ours != theirs
    ]
    assert not wrong, f"{len(wrong)} of {REQUESTS} differ with seed {seed}:\n{case.filter}\n" + "\n".join(wrong[:4])
    assert counted["pymesh"] == counted["envoy"]
    details = {answer["log"].split(" ")[3] for answer in seen["pymesh"]}
    if not {"filter_enabled", "filter_enabled_metadata"} & set(case.filter):
        assert {"via_upstream", "ext_authz_denied"} <= details, "the seed tries what it is to try"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(Raw(b""), 403, id="nothing"),
        pytest.param({"status": {"code": 0}, "denied_response": {"status": {"code": 401}}}, 401, id="denied-ok"),
        pytest.param({"denied_response": {"status": {"code": 401}}}, 401, id="denied-without-status"),
        pytest.param({"error_response": {"status": {"code": 500}}}, 500, id="error-without-status"),
    ],
)
def test_what_says_nothing_lets_nobody_pass(answer: Any, status: int, origins: dict[str, int], tmp_path: Path) -> None:
    case = Case(0)
    config: Json = {"@type": AUTHZ, "transport_api_version": "V3"}
    case.filter = {**config, "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "20s"}}
    seen = {}
    for kind in KINDS:
        with grpc_authorizer() as service:
            service.script[PLAIN] = answer
            with proxy(kind, case.bootstrap(origins, service.port, tmp_path / kind)) as started:
                seen[kind] = fetch(started.port, Request("GET", "/a", HOSTS[0])).status
    assert seen == {"pymesh": status, "envoy": 200}


def _ask(started: Proxy, service: Authorizer, request: Request, body: bytes, use_http2: bool) -> dict[str, Any]:
    service.clear()
    answer = fetch(started.port, request, body, use_http2=use_http2)
    report = json.loads(answer.body) if answer.body.startswith(b'{"origin"') else {}
    reached = {name: report.get(name) for name in ("method", "target", "authority", "length", "origin")}
    return {
        "status": answer.status,
        "headers": sorted(
            (name, "*" if name in VOLATILE else value)
            for name, value in answer.headers
            if name not in ("connection", "transfer-encoding", *(["content-length"] * (request.method == "HEAD")))
        ),
        "body": b"" if report else answer.body,
        "origin": [reached, _told(report.get("headers", []))],
        "asked": [_settled(asked) for asked in service.asked],
        "asked with": [_told(headers) for headers in service.metadata],
    }


def _told(headers: list[Any]) -> list[tuple[str, str]]:
    """Headers that do not depend on the proxy; those of gRPC's own library are left out."""
    return sorted((name, value) for name, value in headers if name not in OF_PROXY and name != "user-agent")


def _settled(asked: Any) -> Any:
    """A question without addresses, times and ids."""
    asked = copy.deepcopy(asked)
    if "attributes" not in asked:
        return asked
    attributes = asked["attributes"]
    for peer in ("source", "destination"):
        attributes[peer]["address"]["socket_address"]["port_value"] = 0
    attributes["request"]["time"] = ""
    http = attributes["request"]["http"]
    http["id"] = bool(http["id"])
    http["headers"] = {name: value for name, value in http["headers"].items() if name not in OF_PROXY}
    return asked


def _lines(log: Path, count: int) -> dict[str, str]:
    """Each request's line, by its number."""

    def read() -> dict[str, str]:
        # How long the service took is no two times the same.
        lines = (re.sub(r'"ext_authz_duration":\d+', '"ext_authz_duration":0', line) for line in lines_of(log))
        return {line.split(" ")[0]: line for line in lines}

    wanted = set(map(str, range(count)))
    assert eventually(lambda: wanted <= read().keys()), wanted - read().keys()
    return read()


def _counters(started: Proxy) -> dict[str, int]:
    names = re.compile(
        r"^(cluster\.[ab]\.ext_authz\.|http\.ingress\.ext_authz\.|cluster\.(authz|a|b)\.upstream_rq_(total|[2345]xx)$)"
    )
    return {name: value for name, value in started.stats().items() if names.match(name) and value}
