"""The access log is Envoy's, operator by operator: the same traffic and the same format make the same line.

The format has every operator that ours knows, read from its table, as text and as JSON; Envoy's default format stands
beside it. What cannot be the same in two runs (times, ports, random numbers) is compared by its form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.bootstrap import (
    Json,
    access_log,
    bootstrap,
    cluster,
    downstream_tls,
    http_listener,
    to_cluster,
    upstream_tls,
    virtual_host,
)
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.certificates import Authority
from tests.tools.ports import free_port, free_ports
from tests.tools.wire.client import client_context, fetch
from tests.tools.wire.message import Aborted, Headers, Request
from tests.tools.wire.origin import origin

KINDS = ("pymesh", "envoy")
INSPECTOR = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
_TABLE = Path(__file__).resolve().parents[2] / "rust" / "model" / "src" / "format" / "operator.rs"
PLAIN = re.findall(r'\("([A-Z0-9_]+)", Operator::', _TABLE.read_text())
INSTANTS = re.findall(r'\("([A-Z_]+)", Instant::', _TABLE.read_text())
#: Operators with arguments, as people write them.
ARGUED = [
    "REQ(:METHOD)",
    "REQ(:PATH)",
    "REQ(:AUTHORITY)",
    "REQ(:SCHEME)",
    "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)",
    "REQ(USER-AGENT):12",
    "REQ(X-REQUEST-ID)",
    "REQ(X-FORWARDED-FOR)",
    "REQ(X-ABSENT?USER-AGENT)",
    "REQ(X-ABSENT)",
    "RESP(SERVER)",
    "RESP(CONTENT-LENGTH)",
    "RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)",
    "RESP(X-ABSENT?CONTENT-TYPE):9",
    "TRAILER(GRPC-STATUS)",
    "DYNAMIC_METADATA(com.test:absent)",
    "METADATA(DYNAMIC:com.test:absent)",
    "REQUEST_HEADER(:METHOD)",
    "RESPONSE_HEADER(X-ORIGIN)",
    "RESPONSE_TRAILER(GRPC-STATUS)",
    "START_TIME(%Y/%m/%dT%H:%M:%S%z %s.%3f)",
    "START_TIME(%F %T.%6f %9f %f %a %A %b %B %e %j %I %p %u %w %y %C %D %R %h %Z)",
    "EMIT_TIME(%s)",
    "GRPC_STATUS(CAMEL_STRING)",
    "GRPC_STATUS(SNAKE_STRING)",
    "GRPC_STATUS(NUMBER)",
    "PATH(NQ)",
    "PATH(WQ:ORIG):6",
    "PATH(NQ:PATH)",
    "PATH(:ORIG_OR_PATH)",
    "QUERY_PARAM(query)",
    "QUERY_PARAM(b):2",
    "REQUESTED_SERVER_NAME(SNI_FIRST)",
    "ENVIRONMENT(PATH):5",
    "ENVIRONMENT(PYMESH_NO_SUCH_VARIABLE)",
    "REQUESTED_SERVER_NAME(HOST_FIRST:HOST)",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(12)",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(0)",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(32)",
    *(f"COMMON_DURATION({instant}:DS_TX_END:ms)" for instant in INSTANTS),
    *(f"COMMON_DURATION(DS_RX_BEG:{instant}:ns)" for instant in INSTANTS),
    "COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)",
]
OPERATORS = [*PLAIN, *ARGUED]
#: Where ours says something else.
DIFFERENT = {
    "HOSTNAME": "ours is the node's id; Envoy's is the machine's name",
    "REQUEST_HEADERS_BYTES": "ours gives a request the headers for its endpoint when there is a connection to it",
    "UPSTREAM_TRANSPORT_FAILURE_REASON": "the same failures, in the words of the system and of Envoy's sockets",
}
#: Compared by their form: digits are any digits.
VOLATILE = re.compile(
    # Of a response for the upstream's time, which is one of its headers.
    r"_TIME|DURATION|SERVICE-TIME|RESPONSE_HEADERS_BYTES|ADDRESS$|_PORT$|UPSTREAM_HOST$|REQUEST-ID"
    r"|TRACE_ID|SPAN_ID|CONNECTION_ID|STREAM_ID"
)


@dataclass(frozen=True)
class Case:
    """A request; `use` is how it is sent: `http1`, `http2` or `tls`."""

    path: str
    headers: Headers = ()
    method: str = "GET"
    body: bytes = b""
    host: str = "a.test"
    use: str = "http1"

    def __str__(self) -> str:
        return " ".join([self.use, self.method, self.host, self.path, *(f"{n}={v}" for n, v in self.headers)])


GRPC: Headers = [("content-type", "application/grpc"), ("te", "trailers")]
CASES = [
    Case("/plain"),
    Case("/plain?query=1&b=%20", [("user-agent", "curl/8.14.1 (test)"), ("x-request-id", "mine")]),
    Case("/plain", [("x-forwarded-for", "192.0.2.1, 192.0.2.2")]),
    Case("/plain", method="POST", body=b"x" * 3000),
    Case("/plain", [("x-want-bytes", "70000")]),
    Case("/plain", [("x-want-status", "204")]),
    Case("/plain", [("x-want-status", "500")]),
    Case("/plain", method="HEAD"),
    Case("/rewritten/far?x=y"),
    Case("/direct"),
    Case("/redirect"),
    Case("/nowhere", host="unknown.test"),
    Case("/down"),
    Case("/slow", [("x-want-delay", "10")]),
    Case("/retried", [("x-want-status", "503|200")]),
    Case("/retried", [("x-want-reset", "before")]),
    Case("/plain", use="http2"),
    Case("/plain", GRPC, method="POST", body=b"\0\0\0\0\0", use="http2"),
    Case("/direct", GRPC, method="POST", use="http2"),
    Case("/plain", use="tls"),
    Case("/named", use="tls"),
    Case("/secure"),
    Case("/secure", method="POST", body=b"x"),
]


def _routes() -> list[Json]:
    retry = {"retry_on": "5xx", "num_retries": 1, "retry_back_off": {"base_interval": "0.001s"}}
    return [
        to_cluster("a", "/rewritten", prefix_rewrite="/new"),
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 418, "body": {"inline_string": "tea"}}},
        {"match": {"prefix": "/redirect"}, "redirect": {"host_redirect": "other.test"}},
        to_cluster("down", "/down"),
        to_cluster("secure", "/secure"),
        to_cluster("a", "/slow", timeout="0.2s"),
        to_cluster("a", "/retried", retry_policy=retry),
        {**to_cluster("a", "/named"), "name": "a name"},
        to_cluster("a"),
    ]


def _logs(folder: Path) -> list[Json]:
    text = "\t".join(f"%{one}%" for one in OPERATORS) + "\n"
    as_json = {"json_format": {one: f"%{one}%" for one in OPERATORS}}
    mixed = {"json_format": {"words": "a %PROTOCOL% b", "percent": "100%%", "two": "%RESPONSE_CODE%%RESPONSE_FLAGS%"}}
    logs = [access_log(folder / "text", text)]
    for name, form in (("json", as_json), ("mixed", mixed), ("default", None)):
        log = access_log(folder / name, "")
        del log["typed_config"]["log_format"]
        if form is not None:
            log["typed_config"]["log_format"] = form
        logs.append(log)
    return logs


@dataclass
class Both:
    """Both proxies after all requests, and what they have written."""

    proxies: dict[str, Proxy] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)

    def lines(self, kind: str, name: str) -> list[str]:
        file = self.folders[kind] / name
        assert eventually(lambda: len(lines_of(file)) >= len(CASES), 20), lines_of(file)
        lines = lines_of(file)
        assert len(lines) == len(CASES)
        return lines


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    server = authority.issue("server", dns=["localhost"], uris=["spiffe://cluster.local/ns/a/sa/server"])
    client = authority.issue("client", dns=["client.test"], uris=["spiffe://cluster.local/ns/a/sa/client"])
    made = Both()
    with ExitStack() as stack:
        behind, down = stack.enter_context(origin("a")), free_port()
        secured = stack.enter_context(origin("secure", tls=server))
        for kind in KINDS:
            made.folders[kind] = tmp_path_factory.mktemp(kind)
            plain, secure, admin = free_ports(3)
            manager: Json = {"access_log": _logs(made.folders[kind])}
            host = virtual_host("all", _routes(), ["a.test"])
            tls = downstream_tls(server, client_root=str(authority.root))
            inspector = {"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": INSPECTOR}}
            listeners = [
                http_listener(plain, [host], name="plain", **manager),
                http_listener(secure, [host], name="secure", tls=tls, **manager),
            ]
            # Envoy knows the name that was asked for by its inspector alone.
            listeners[1]["listener_filters"] = [inspector]
            listeners[1]["filter_chains"][0]["name"] = "the secure one"
            to_secure = upstream_tls(str(authority.root), "localhost", pair=client)
            # The two have other versions in mind if nobody names one.
            version = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
            to_secure["typed_config"]["common_tls_context"]["tls_params"] = version
            clusters = [
                cluster("a", [behind.port]),
                cluster("down", [down]),
                cluster("secure", [secured.port], tls=to_secure),
            ]
            made.proxies[kind] = stack.enter_context(proxy(kind, bootstrap(listeners, clusters, admin)))
        context = client_context(str(authority.root), ["http/1.1"])
        context.load_cert_chain(client.chain, client.key)
        for kind, started in made.proxies.items():
            for number, case in enumerate(CASES, 1):
                request = Request(case.method, case.path, case.host, case.headers)
                tls_client = context if case.use == "tls" else None
                with suppress(Aborted):
                    port = started.ports[1 if tls_client else 0]
                    fetch(port, request, case.body, use_http2=case.use == "http2", tls=tls_client)
                # Lines are in the order of the ends of requests.
                file = made.folders[kind] / "text"
                assert eventually(lambda file=file, number=number: len(lines_of(file)) == number, 20), (kind, str(case))
        yield made


def _form(name: str, value: Any) -> Any:
    """A value as it is compared."""
    if isinstance(value, str):
        # Envoy's details go on with what the system said of the connection.
        value = re.sub(r"\|[^}]*}", "}", value)
    if not VOLATILE.search(name):
        return value
    if isinstance(value, str):
        if "ID" in name:
            return value not in ("", "-", "0")
        return re.sub(r"[0-9a-f]{8,}", "HEX", re.sub(r"[0-9]+", "N", value))
    return type(value).__name__


def _is_said(values: list[tuple[str, Any]]) -> list[tuple[str, bool]]:
    return [(case, value not in (None, "-", "")) for case, value in values]


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_says_the_same_as_text(operator: str, both: Both) -> None:
    at = OPERATORS.index(operator)

    def said(kind: str) -> list[tuple[str, str]]:
        columns = [line.split("\t") for line in both.lines(kind, "text")]
        assert {len(one) for one in columns} == {len(OPERATORS)}
        return [(str(case), _form(operator, one[at])) for case, one in zip(CASES, columns, strict=True)]

    if operator in DIFFERENT:
        # One that is no difference any more has no place in the table.
        assert said("pymesh") != said("envoy"), DIFFERENT[operator]
        assert _is_said(said("pymesh")) == _is_said(said("envoy"))
        return
    assert said("pymesh") == said("envoy")


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_says_the_same_as_json(operator: str, both: Both) -> None:
    def said(kind: str) -> list[tuple[str, Any]]:
        found = [json.loads(line)[operator] for line in both.lines(kind, "json")]
        return [(str(case), _form(operator, one)) for case, one in zip(CASES, found, strict=True)]

    if reason := DIFFERENT.get(operator):
        assert said("pymesh") != said("envoy"), reason
        assert _is_said(said("pymesh")) == _is_said(said("envoy"))
        return
    assert said("pymesh") == said("envoy")


def test_text_around_operators_is_the_same(both: Both) -> None:
    assert [json.loads(line) for line in both.lines("pymesh", "mixed")] == [
        json.loads(line) for line in both.lines("envoy", "mixed")
    ]


def test_the_default_line_is_envoys(both: Both) -> None:
    def settled(line: str) -> str:
        line = re.sub(r"^\[[^]]*\]", "[TIME]", line)
        line = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", line)
        # Duration and upstream service time; the request's own id.
        line = re.sub(r'(" \d+ \S+ \d+ \d+) \d+ (\d+|-) ', r"\1 N N ", line)
        return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "UUID", line)

    lines = {kind: [settled(line) for line in both.lines(kind, "default")] for kind in KINDS}
    assert lines["pymesh"] == lines["envoy"]
