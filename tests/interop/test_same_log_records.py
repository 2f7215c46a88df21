"""An access log that a collector of OpenTelemetry is told: ours and Envoy make the same records of the same traffic.

The collector is a real one. Records are compared whole, but for times and random numbers.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.observability.collector import Collector, Record, collecting, not_started
from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, tcp_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, proxy
from tests.tools.ports import free_ports
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import origin

KINDS = ("pymesh", "envoy")


def _text(value: str) -> Json:
    return {"string_value": value}


def _pairs(**values: str) -> Json:
    return {"values": [{"key": key, "value": _text(value)} for key, value in values.items()]}


_WORDS = {
    "code": "%RESPONSE_CODE%",
    "absent": "%REQ(X-ABSENT)%",
    "mixed": "<%REQ(X-ODD)%> of %PROTOCOL%",
    "literal": "100%%",
    "details": "%RESPONSE_CODE_DETAILS%",
}
#: What each log is told to say: the listener's port is where its requests go.
LOGS: dict[str, Json] = {
    "labelled": {"body": _text("%REQ(:METHOD)% %REQ(:PATH)%"), "attributes": _pairs(**_WORDS)},
    "bare": {"disable_builtin_labels": True, "attributes": _pairs(path="%REQ(:PATH)%")},
    "resource": {
        "disable_builtin_labels": True,
        "resource_attributes": _pairs(**{"service.name": "shop", "b": "100%"}),
        "body": _text("%PATH(NQ)%\n"),
    },
    "filtered": {"body": _text("%REQ(:PATH)% %RESPONSE_CODE%")},
    "raw": {"body": _text("%BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER%"), "attributes": _pairs(**_WORDS)},
}
REQUESTS = [
    Request("GET", "/a?b=c", "a.test"),
    Request("GET", "/odd", "a.test", [("x-odd", "\u00e4\t\u00ff")]),
    Request("POST", "/nowhere", "unknown.test"),
    Request("GET", "/late", "a.test", [("x-want-status", "503")]),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Record]]]:
    """The records of each proxy, once all are there."""
    found = {}
    with ExitStack() as stack:
        behind = stack.enter_context(origin("a"))
        for kind in KINDS:
            collector = stack.enter_context(collecting(not_started(tmp_path_factory.mktemp(kind))))
            *ports, admin = free_ports(len(LOGS) + 1)
            listeners = [_listener(name, port, collector) for name, port in zip(LOGS, ports, strict=True)]
            clusters = [cluster("a", [behind.port]), cluster("collector", [collector.grpc], http2=True)]
            made = bootstrap(listeners, clusters, admin)
            made["node"] = {"id": "a-node", "cluster": "a-cluster", "locality": {"zone": "a-zone"}}
            with proxy(kind, made) as started:
                _ask(started)
                wanted = 3 * len(REQUESTS) + 2 + 1
                assert eventually(lambda collector=collector, wanted=wanted: len(_asked(collector)) >= wanted, 30)
                found[kind] = _asked(collector)
                assert len(found[kind]) == wanted
                _counted(started, len(collector.records()))
        yield found


def _listener(name: str, port: int, collector: Collector) -> Json:
    log = collector.log(**LOGS[name])
    if name == "raw":
        return tcp_listener(port, "a", name=name, access_log=[log])
    if name == "filtered":
        comparison = {"op": "GE", "value": {"default_value": 400, "runtime_key": "unused"}}
        log["filter"] = {"status_code_filter": {"comparison": comparison}}
    tracing = {"provider": collector.provider("grpc", "shop")} if name == "labelled" else None
    manager: Json = {"access_log": [log], **({"tracing": tracing} if tracing else {})}
    return http_listener(port, [virtual_host("all", [to_cluster("a")], ["a.test"])], name=name, **manager)


def _ask(started: Proxy) -> None:
    for port in started.ports[:4]:
        for request in REQUESTS:
            fetch(port, request)
    with socket.create_connection(("127.0.0.1", started.ports[4]), timeout=30) as raw:
        raw.sendall(b"GET /raw HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        while raw.recv(4096):
            pass


def _asked(collector: Collector) -> list[Record]:
    """Without those of whoever waited for the port."""
    return [record for record in collector.records() if not record.body.startswith("0 0 ")]


def _counted(started: Proxy, wanted: int) -> None:
    name = "access_logs.open_telemetry_access_log"

    def counted() -> tuple[int, int]:
        stats = started.stats()
        return stats.get(f"{name}.logs_written", 0), stats.get(f"{name}.logs_dropped", 0)

    assert eventually(lambda: counted() == (wanted, 0), 20), counted()


def _comparable(record: Record) -> tuple[Any, ...]:
    body = re.sub(r"^(\d+) \d+ a$", r"\1 N a", record.body)
    # Envoy sends octets as they are, though text is UTF-8 (protobuf) and a collector may refuse the message.
    attributes = {name: value.replace("\ufffd", "!") for name, value in record.attributes.items()}
    return record.resource, body, attributes, bool(record.trace), bool(record.span)


def _sorted(records: list[Record]) -> list[tuple[Any, ...]]:
    return sorted(map(_comparable, records), key=str)


def test_records_are_the_same(told: dict[str, list[Record]]) -> None:
    assert _sorted(told["pymesh"]) == _sorted(told["envoy"])


def test_a_record_belongs_to_its_trace(told: dict[str, list[Record]]) -> None:
    traced = [record for record in told["pymesh"] if record.resource.get("log_name") and record.trace]
    assert len(traced) == len(REQUESTS)
    assert all(len(record.trace) == 32 and len(record.span) == 16 and record.at for record in traced)
