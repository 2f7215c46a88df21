"""The bootstrap that ours and Envoy both run in the differential test: one virtual host per subject."""

from __future__ import annotations

from typing import Any

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host

EDGE = {
    "use_remote_address": True,
    "normalize_path": True,
    "merge_slashes": True,
    "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
    "strip_any_host_port": True,
    "server_name": "edge-1",
    "via": "1.1 edge",
    "preserve_external_request_id": True,
    "always_set_request_id_in_response": True,
    "http_protocol_options": {"accept_http_10": True},
    "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
}


# What both say about a request when it is over.
LOG = " ".join(
    [
        "%REQ(:METHOD)% %REQ(:AUTHORITY)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%",
        "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%",
        "%UPSTREAM_CLUSTER% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %BYTES_RECEIVED% %BYTES_SENT%",
    ]
)
_FILE_LOG = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"


def differential_bootstrap(
    *, plain: int, edge: int, admin: int, origins: dict[str, int], http2_origin: int, nobody: int, log: str
) -> Json:
    """A listener with Envoy's defaults, one hardened as for the edge, and clusters `a`, `b`, `c`, `down`, `empty`."""
    hosts = virtual_hosts()
    clusters = [cluster(name, [port]) for name, port in origins.items()]
    clusters += [
        cluster("c", [http2_origin], http2=True),
        cluster("down", [nobody]),
        cluster("empty", []),
    ]
    file = {"@type": _FILE_LOG, "path": log, "log_format": {"text_format_source": {"inline_string": LOG + "\n"}}}
    logs = [{"name": "envoy.access_loggers.file", "typed_config": file}]
    return bootstrap(
        [
            http_listener(plain, hosts, name="plain", access_log=logs),
            http_listener(edge, hosts, name="edge", access_log=logs, **EDGE),
        ],
        clusters,
        admin,
    )


def virtual_hosts() -> list[Json]:
    """Every virtual host of the table."""
    return [
        virtual_host("paths", paths(), ["paths.test"]),
        virtual_host("matches", matches(), ["matches.test", "matches.test:8080"]),
        virtual_host("rewrites", rewrites(), ["rewrites.test"]),
        virtual_host("redirects", redirects(), ["redirects.test"]),
        virtual_host("direct", direct(), ["direct.test"]),
        virtual_host("weights", weights(), ["weights.test"]),
        virtual_host(
            "headers",
            headers(),
            ["headers.test"],
            request_headers_to_add=[_add("x-host-level", "host"), _add("x-levels", "host")],
            response_headers_to_add=[_add("x-answer-level", "host")],
            request_headers_to_remove=["x-secret"],
        ),
        virtual_host("failures", failures(), ["failures.test"]),
        virtual_host("retries", retries(), ["retries.test"], include_request_attempt_count=True),
        virtual_host(
            "host-retries",
            [to_cluster("a")],
            ["host-retries.test"],
            include_request_attempt_count=True,
            include_attempt_count_in_response=True,
            retry_policy={"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.3s"},
        ),
        virtual_host("deadlines", deadlines(), ["deadlines.test"]),
        virtual_host("suffix", [to_cluster("b")], ["*.wild.test"]),
        virtual_host("longer-suffix", [to_cluster("a")], ["*.very.wild.test"]),
        virtual_host("prefix", [to_cluster("b")], ["prefix.*"]),
        virtual_host("tls-only", [to_cluster("a")], ["secure.test"], require_tls="ALL"),
        virtual_host("http2", [to_cluster("c")], ["http2.test"]),
    ]


def paths() -> list[Json]:
    """Every way to match a path; the first route that matches is taken."""
    return [
        {"match": {"path": "/exact"}, "route": {"cluster": "b"}},
        {"match": {"safe_regex": {"regex": "/item/[0-9]+"}}, "route": {"cluster": "b"}},
        {"match": {"path_separated_prefix": "/sep"}, "route": {"cluster": "b"}},
        {"match": {"prefix": "/CaSe", "case_sensitive": False}, "route": {"cluster": "b"}},
        {"match": {"prefix": "/none"}, "direct_response": {"status": 404}},
        to_cluster("a"),
    ]


def matches() -> list[Json]:
    """Headers and query parameters."""

    def on_header(prefix: str, **match: Any) -> Json:
        return {"match": {"prefix": prefix, "headers": [match]}, "route": {"cluster": "b"}}

    def on_query(prefix: str, **match: Any) -> Json:
        return {"match": {"prefix": prefix, "query_parameters": [match]}, "route": {"cluster": "b"}}

    return [
        on_header("/exact", name="x-env", string_match={"exact": "canary"}),
        on_header("/prefix", name="x-env", string_match={"prefix": "can"}),
        on_header("/suffix", name="x-env", string_match={"suffix": "ary"}),
        on_header("/contains", name="x-env", string_match={"contains": "nar"}),
        on_header("/nocase", name="x-env", string_match={"exact": "CANARY", "ignore_case": True}),
        on_header("/regex", name="x-env", string_match={"safe_regex": {"regex": "can.*"}}),
        on_header("/present", name="x-env", present_match=True),
        on_header("/absent", name="x-env", present_match=False),
        on_header("/invert", name="x-env", string_match={"exact": "canary"}, invert_match=True),
        on_header("/range", name="x-number", range_match={"start": 10, "end": 20}),
        on_header("/method", name=":method", string_match={"exact": "POST"}),
        on_header("/authority", name=":authority", string_match={"exact": "matches.test:8080"}),
        on_query("/query-exact", name="v", string_match={"exact": "2"}),
        on_query("/query-present", name="v", present_match=True),
        {"match": {"prefix": "/grpc", "grpc": {}}, "route": {"cluster": "b"}},
        to_cluster("a"),
    ]


def rewrites() -> list[Json]:
    """Paths and hosts that change on the way."""
    regex = {"pattern": {"regex": "^/user/([^/]+)/(.*)$"}, "substitution": "/\\2/for/\\1"}
    return [
        to_cluster("a", "/old/", prefix_rewrite="/new/"),
        to_cluster("a", "/root", prefix_rewrite="/"),
        {"match": {"path": "/one"}, "route": {"cluster": "a", "prefix_rewrite": "/two"}},
        to_cluster("a", "/user/", regex_rewrite=regex),
        to_cluster("a", "/host", host_rewrite_literal="other.test"),
        to_cluster("a", "/from-header", host_rewrite_header="x-upstream-host"),
        to_cluster("a", "/tell", host_rewrite_literal="other.test", append_x_forwarded_host=True),
        to_cluster("a"),
    ]


def redirects() -> list[Json]:
    """Every part of a location."""

    def to(prefix: str, **redirect: Any) -> Json:
        return {"match": {"prefix": prefix}, "redirect": redirect}

    regex = {"pattern": {"regex": "^/r/(.*)$"}, "substitution": "/s/\\1"}
    return [
        to("/https", https_redirect=True),
        to("/scheme", scheme_redirect="https"),
        to("/host", host_redirect="other.test"),
        to("/port", port_redirect=8443),
        to("/path", path_redirect="/elsewhere"),
        to("/with-query", path_redirect="/elsewhere?a=b"),
        to("/prefix/", prefix_rewrite="/changed/"),
        to("/r/", regex_rewrite=regex),
        to("/strip", path_redirect="/elsewhere", strip_query=True),
        to("/found", host_redirect="other.test", response_code="FOUND"),
        to("/see-other", host_redirect="other.test", response_code="SEE_OTHER"),
        to("/temporary", host_redirect="other.test", response_code="TEMPORARY_REDIRECT"),
        to("/permanent", host_redirect="other.test", response_code="PERMANENT_REDIRECT"),
        to("/all", https_redirect=True, host_redirect="other.test", port_redirect=8443, path_redirect="/x"),
    ]


def direct() -> list[Json]:
    """Answers without an upstream."""
    text = {"inline_string": "hello from the proxy"}
    return [
        {
            "match": {"prefix": "/hello"},
            "direct_response": {"status": 200, "body": text},
            "response_headers_to_add": [_add("content-type", "text/x-greeting", "OVERWRITE_IF_EXISTS_OR_ADD")],
        },
        {"match": {"prefix": "/plain"}, "direct_response": {"status": 200, "body": text}},
        {"match": {"prefix": "/teapot"}, "direct_response": {"status": 418, "body": text}},
        {"match": {"prefix": "/empty"}, "direct_response": {"status": 204}},
        {"match": {"prefix": "/unavailable"}, "direct_response": {"status": 503}},
    ]


def weights() -> list[Json]:
    """Weighted clusters whose outcome is certain."""

    def split(prefix: str, a: int, b: int) -> Json:
        clusters = [{"name": "a", "weight": a}, {"name": "b", "weight": b}]
        return {"match": {"prefix": prefix}, "route": {"weighted_clusters": {"clusters": clusters}}}

    def hosted(prefix: str, action: Json) -> Json:
        cluster = {"name": "a", "weight": 1, "host_rewrite_literal": "share.test"}
        header = {"header": {"key": "x-seen-host", "value": "%REQ(:AUTHORITY)%"}}
        return {
            "match": {"path": prefix},
            "route": {"weighted_clusters": {"clusters": [cluster]}, **action},
            "request_headers_to_add": [header],
        }

    return [
        split("/all-a", 100, 0),
        split("/all-b", 0, 1),
        {"match": {"prefix": "/named"}, "route": {"cluster_header": "x-cluster"}},
        hosted("/hosted", {}),
        hosted("/hosted-twice", {"host_rewrite_literal": "route.test"}),
    ]


def headers() -> list[Json]:
    """Header operations on the route, below those of the virtual host."""
    return [
        {
            "match": {"prefix": "/add"},
            "route": {"cluster": "a"},
            "request_headers_to_add": [
                _add("x-levels", "route"),
                _add("x-replaced", "route", "OVERWRITE_IF_EXISTS_OR_ADD"),
                _add("x-kept", "route", "ADD_IF_ABSENT"),
                _add("x-only-if-there", "route", "OVERWRITE_IF_EXISTS"),
            ],
            "response_headers_to_add": [
                _add("x-answer-level", "route"),
                _add("x-answer-kept", "route", "ADD_IF_ABSENT"),
            ],
            "response_headers_to_remove": ["x-internal"],
        },
        {
            "match": {"prefix": "/remove"},
            "route": {"cluster": "a"},
            "request_headers_to_remove": ["x-drop", "user-agent"],
            "response_headers_to_remove": ["x-origin"],
        },
        {
            "match": {"prefix": "/format"},
            "route": {"cluster": "a"},
            "request_headers_to_add": [
                _add("x-peer", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
                _add("x-protocol", "%PROTOCOL%"),
                _add("x-copied", "%REQ(x-copy-me)%"),
                _add("x-percent", "100%%"),
            ],
            "response_headers_to_add": [
                _add("x-cluster", "%UPSTREAM_CLUSTER%"),
                _add("x-code", "%RESPONSE_CODE%"),
            ],
        },
        to_cluster("a"),
    ]


def failures() -> list[Json]:
    """What the upstream may do wrong."""
    return [
        to_cluster("down", "/down"),
        to_cluster("empty", "/empty"),
        to_cluster("a", "/slow", timeout="0.3s"),
        to_cluster("a", "/idle", timeout="0s", idle_timeout="0.3s"),
        to_cluster("a", "/http1"),
        to_cluster("c", "/http2"),
        {
            "match": {"prefix": "/gone"},
            "route": {"cluster_header": "x-none", "cluster_not_found_response_code": "NOT_FOUND"},
        },
    ]


def deadlines() -> list[Json]:
    """How far a client of gRPC is heard; long enough for a machine that has much to do."""
    return [
        to_cluster("a", "/own", timeout="0s", max_grpc_timeout="0s"),
        to_cluster("a", "/most", timeout="20s", max_grpc_timeout="20s"),
        to_cluster("a", "/less", timeout="0s", max_grpc_timeout="40s", grpc_timeout_offset="1s"),
        to_cluster("a", "/stream/", max_stream_duration={"grpc_timeout_header_max": "0s"}),
        to_cluster("a", "/stream-most", max_stream_duration={"grpc_timeout_header_max": "20s"}),
        to_cluster(
            "a",
            "/stream-less",
            max_stream_duration={"grpc_timeout_header_max": "40s", "grpc_timeout_header_offset": "1s"},
        ),
        to_cluster(
            "a",
            "/both",
            max_stream_duration={"max_stream_duration": "30s", "grpc_timeout_header_max": "40s"},
            max_grpc_timeout="9s",
        ),
        to_cluster("a", "/none", timeout="0s"),
    ]


def retries() -> list[Json]:
    """Retry policies; the number of attempts is compared as well."""

    def retry(prefix: str, on: str, *, to: str = "a", number: int = 2, **policy: Any) -> Json:
        back_off = {"base_interval": "0.001s", "max_interval": "0.001s"}
        full = {"retry_on": on, "num_retries": number, "retry_back_off": back_off, **policy}
        return to_cluster(to, prefix, retry_policy=full)

    return [
        retry("/5xx", "5xx"),
        retry("/gateway", "gateway-error"),
        retry("/4xx", "retriable-4xx"),
        retry("/codes", "retriable-status-codes", retriable_status_codes=[418]),
        retry("/reset", "reset"),
        retry("/connect", "connect-failure", to="down"),
        retry("/try", "5xx", per_try_timeout="0.2s", number=1),
        retry("/grpc", "unavailable"),
        retry("/stream", "reset", to="c"),
        to_cluster("a"),
    ]


def _add(name: str, value: str, action: str = "APPEND_IF_EXISTS_OR_ADD") -> Json:
    return {"header": {"key": name, "value": value}, "append_action": action}
