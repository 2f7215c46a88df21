"""A listener's own access log: one line for each connection, whatever it carried, as Envoy writes it."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

import pytest

from tests.proxy.bootstrap import (
    Json,
    access_log,
    bootstrap,
    cluster,
    http_listener,
    tcp_listener,
    to_cluster,
    virtual_host,
)
from tests.proxy.running import eventually, lines_of, proxy
from tests.tools.ports import free_ports
from tests.tools.wire.origin import origin

_LINE = (
    "%BYTES_RECEIVED% %BYTES_SENT% %RESPONSE_CODE% %RESPONSE_FLAGS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% "
    "%DOWNSTREAM_LOCAL_PORT% %DOWNSTREAM_TRANSPORT_FAILURE_REASON% %UPSTREAM_CLUSTER% %ACCESS_LOG_TYPE%\n"
)
_REQUEST = {"x-want-bytes": "100"}


@pytest.mark.parametrize("kind", ["pymesh", "envoy"])
def test_each_connection_has_a_line(kind: str, tmp_path: Path) -> None:
    with origin() as behind:
        web, raw, silent, admin = free_ports(4)
        listeners = [
            http_listener(web, [virtual_host("all", [to_cluster("origin")])], name="web"),
            tcp_listener(raw, "origin", name="raw"),
            tcp_listener(silent, "origin", name="silent", access_log=[_never(tmp_path / "never.log")]),
        ]
        for listener in listeners:
            listener["access_log"] = [access_log(tmp_path / f"{listener['name']}.log", _LINE)]
        listeners[2]["access_log"] = [_never(tmp_path / "never.log")]
        with proxy(kind, bootstrap(listeners, [cluster("origin", [behind.port])], admin)):
            # Whoever waited for the ports left lines of connections without an octet.
            for port in (web, raw, silent):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                for _ in range(2):
                    connection.request("GET", "/", headers=_REQUEST)
                    assert len(connection.getresponse().read()) == 100
                connection.close()
            with socket.create_connection(("127.0.0.1", web)) as plain:
                plain.sendall(b"GET")
            found = {name: _told(tmp_path / f"{name}.log", count) for name, count in (("web", 2), ("raw", 1))}
    asked = len("GET / HTTP/1.1\r\nHost: 127.0.0.1:\r\nAccept-Encoding: identity\r\nx-want-bytes: 100\r\n\r\n") * 2
    received = {
        "web": [3, asked + 2 * len(str(web))],
        "raw": [asked + 2 * len(str(raw))],
    }
    for name, lines in found.items():
        assert sorted(int(line[0]) for line in lines) == received[name]
        port = str(web if name == "web" else raw)
        assert {tuple(line[2:7]) for line in lines} == {("0", "-", "127.0.0.1", port, "-")}
        assert {line[8] for line in lines} == {"NotSet"}
        assert all(int(line[1]) > 200 for line in lines if line[0] != "3")
    assert not (tmp_path / "never.log").exists() or (tmp_path / "never.log").read_text() == ""


def _told(log: Path, many: int) -> list[list[str]]:
    """The lines of connections that carried something."""

    def lines() -> list[list[str]]:
        return [line.split(" ") for line in lines_of(log) if not line.startswith("0 ")]

    assert eventually(lambda: len(lines()) == many, 30), log.read_text()
    return lines()


def _never(file: Path) -> Json:
    """A log of no connection in a hundred."""
    log = access_log(file, "said\n")
    percent = {"numerator": 0, "denominator": "HUNDRED"}
    return {**log, "filter": {"runtime_filter": {"runtime_key": "never", "percent_sampled": percent}}}
