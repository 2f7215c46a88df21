"""The PROXY protocol with those who speak it: HAProxy and nginx, as senders and as receivers, in both versions.

Every receiver says whom it takes the connection to come from; that has to be the client's own socket, whoever stands
in between. Envoy stands where ours stands and has to be told the same.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.test_same_filter_chain import connected, everything
from tests.interop.test_same_listener_filters import proxy_protocol
from tests.proxy.bootstrap import (
    Json,
    access_log,
    bootstrap,
    cluster,
    http_listener,
    tcp_listener,
    to_cluster,
    upstream_tls,
    virtual_host,
)
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.certificates import Authority
from tests.tools.haproxy import haproxy
from tests.tools.nginx import nginx
from tests.tools.peers import peer
from tests.tools.ports import free_port, free_ports
from tests.tools.wire.origin import origin

KINDS = ["envoy", "pymesh"]
VERSIONS = ["V1", "V2"]
RECEIVERS = ["nginx", "nginx behind TLS", "haproxy"]
SENDERS = ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"]
CLIENT = "127.0.0.9"
TRANSPORTS = "type.googleapis.com/envoy.extensions.transport_sockets"


def speaking_for_clients(version: str, inner: Json | None = None) -> Json:
    """A transport socket that begins with a PROXY protocol header."""
    inner = inner or {"name": "raw", "typed_config": {"@type": f"{TRANSPORTS}.raw_buffer.v3.RawBuffer"}}
    outer = f"{TRANSPORTS}.proxy_protocol.v3.ProxyProtocolUpstreamTransport"
    config = {"@type": outer, "config": {"version": version}, "transport_socket": inner}
    return {"name": "envoy.transport_sockets.upstream_proxy_protocol", "typed_config": config}


@dataclass(frozen=True)
class Receivers:
    """Ports that want a header, by who listens there."""

    ports: dict[str, int]
    root: str


@pytest.fixture(scope="module")
def receivers(authority: Authority) -> Iterator[Receivers]:
    pair = authority.issue("receiver", dns=["localhost"])
    ports = dict(zip(RECEIVERS, free_ports(len(RECEIVERS)), strict=True))
    said = "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port"
    servers = f"""
    server {{ listen 127.0.0.1:{ports["nginx"]} proxy_protocol; return 200 "{said}\\n"; }}
    server {{
        listen 127.0.0.1:{ports["nginx behind TLS"]} ssl proxy_protocol;
        ssl_certificate {pair.chain}; ssl_certificate_key {pair.key};
        return 200 "{said}\\n";
    }}
    """
    sections = f"""
frontend receiver
    mode http
    bind 127.0.0.1:{ports["haproxy"]} accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst_port]\\n"
    """
    with nginx(servers, list(ports.values())[:2]), haproxy(sections, [ports["haproxy"]]):
        yield Receivers(ports, str(authority.root))


@pytest.fixture(scope="module", params=KINDS)
def sender(request: pytest.FixtureRequest, receivers: Receivers) -> Iterator[tuple[Proxy, dict[tuple[str, str], int]]]:
    """A proxy with a TCP listener for each receiver and version."""
    listeners, clusters, ports = [], [], {}
    for receiver, port in receivers.ports.items():
        for version in VERSIONS:
            name = f"{receiver} {version}"
            ports[receiver, version] = free_port()
            listeners.append(tcp_listener(ports[receiver, version], name, name=name))
            tls = upstream_tls(receivers.root, "localhost") if "TLS" in receiver else None
            clusters.append(cluster(name, [port], tls=speaking_for_clients(version, tls)))
    with proxy(request.param, bootstrap(listeners, clusters, free_port())) as started:
        yield started, ports


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("receiver", RECEIVERS)
def test_receivers_are_told_the_client(
    receiver: str, version: str, sender: tuple[Proxy, dict[tuple[str, str], int]]
) -> None:
    _, ports = sender
    port = ports[receiver, version]
    told, client_port = _ask(port)
    assert told == f"{CLIENT} {client_port} {port}"


@pytest.fixture(scope="module", params=KINDS)
def receiver(
    request: pytest.FixtureRequest, receivers: Receivers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Proxy, dict[str, int], Path]]:
    """A proxy that wants headers, HAProxy in front of it in each way, and `curl`'s way in."""
    log = tmp_path_factory.mktemp("logs") / "log"
    http, relay, admin = free_ports(3)
    ports = {f"{way} {sender}": free_port() for way in ("http", "relay") for sender in SENDERS}
    with ExitStack() as stack:
        behind = stack.enter_context(origin())
        line = (
            "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%\n"
        )
        hosts = [virtual_host("all", [to_cluster("origin")])]
        by_http = http_listener(http, hosts, use_remote_address=True, access_log=[access_log(log, line)])
        listeners = [
            {**by_http, "listener_filters": [proxy_protocol()]},
            tcp_listener(relay, "relay", name="relay", filters=[proxy_protocol()]),
        ]
        clusters = [
            cluster("origin", [behind.port]),
            cluster("relay", [receivers.ports["nginx"]], tls=speaking_for_clients("V1")),
        ]
        started = stack.enter_context(proxy(request.param, bootstrap(listeners, clusters, admin)))
        target = {"http": http, "relay": relay}
        sections = "\n".join(
            f"listen p{port}\n    mode tcp\n    bind 127.0.0.1:{port}\n"
            f"    server s 127.0.0.1:{target[name.split()[0]]} {name.split()[1]}"
            for name, port in ports.items()
        )
        stack.enter_context(haproxy(sections, list(ports.values())))
        yield started, {**ports, "curl": http}, log


@pytest.mark.parametrize("sender", SENDERS)
def test_senders_are_believed_by_http(sender: str, receiver: tuple[Proxy, dict[str, int], Path]) -> None:
    _, ports, log = receiver
    port = ports[f"http {sender}"]
    report, client_port = _ask(port)
    headers = dict(json.loads(report)["headers"])
    assert headers["x-forwarded-for"] == CLIENT
    line = f"{CLIENT}:{client_port} 127.0.0.1:{port} 127.0.0.1"
    assert eventually(lambda: line in lines_of(log)), log


@pytest.mark.parametrize("sender", SENDERS)
def test_what_was_told_is_told_on(sender: str, receiver: tuple[Proxy, dict[str, int], Path]) -> None:
    _, ports, _ = receiver
    port = ports[f"relay {sender}"]
    told, client_port = _ask(port)
    assert told == f"{CLIENT} {client_port} {port}"


def test_curl_is_believed(receiver: tuple[Proxy, dict[str, int], Path]) -> None:
    _, ports, _ = receiver
    url = f"http://127.0.0.1:{ports['curl']}/"
    argv = [peer("curl"), "--silent", "--show-error", "--haproxy-protocol", "--interface", CLIENT, url]
    report = subprocess.run(argv, capture_output=True, timeout=60, check=True).stdout
    assert dict(json.loads(report)["headers"])["x-forwarded-for"] == CLIENT


def test_a_slow_sender_is_not_waited_for(tmp_path: Path) -> None:
    for kind in KINDS:
        (port, admin), (nobody,) = free_ports(2), free_ports(1)
        listener = tcp_listener(port, "nobody", filters=[proxy_protocol()])
        listener["listener_filters_timeout"] = "0.5s"
        with proxy(kind, bootstrap([listener], [cluster("nobody", [nobody])], admin)) as started:
            with connected(("127.0.0.1", port)) as client:
                client.sendall(b"PROXY TCP4 192.0.2.1 ")
                assert everything(client) == b""
            timeouts = [value for name, value in started.stats().items() if name.endswith(".downstream_pre_cx_timeout")]
            assert sum(timeouts) == 1


def _ask(port: int) -> tuple[str, int]:
    """The body of the answer to a request, and the port that it came from."""
    with socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(CLIENT, 0)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        answer = everything(client).decode()
        return answer.partition("\r\n\r\n")[2].strip(), client.getsockname()[1]
