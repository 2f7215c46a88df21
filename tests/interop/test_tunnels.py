"""WebSocket and CONNECT through the proxy, in every combination of HTTP/1.1 and HTTP/2, with other people's programs.

Clients are Python's `websockets`, `h2` with `wsproto`, and curl; servers are `websockets` and Python's own HTTP server;
Envoy on the same bootstrap is the peer in front, the peer behind, and the judge of what is answered.
"""

from __future__ import annotations

import base64
import http.server
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import websockets.sync.client
import websockets.sync.server
import wsproto
import wsproto.connection
import wsproto.events

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.peers import peer
from tests.tools.ports import free_ports
from tests.tools.serving import accepting
from tests.tools.wire.tunnel import http2_tunnel

KINDS = ("pymesh", "envoy")
# The way to the server: straight on, or by HTTP/2 to a second proxy and its way to the server.
WAYS = ("straight", "by-pymesh", "by-envoy")
MESSAGE = bytes(range(256)) * 4096
LOG = "%REQ(:METHOD)% %REQ(:AUTHORITY)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%"


@dataclass(frozen=True)
class Mesh:
    """Both proxies, each with a listener for every way, in the order of `WAYS`; a port of an HTTP server."""

    proxies: dict[str, Proxy]
    logs: dict[str, Path]
    site: int

    def port(self, kind: str, way: str = "straight") -> int:
        return self.proxies[kind].ports[WAYS.index(way)]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("tunnels")
    with ExitStack() as stack:
        chat = stack.enter_context(_Served(websockets.sync.server.serve(_echo, "127.0.0.1", 0, max_size=None)))
        site = stack.enter_context(_Served(http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)))
        origin = stack.enter_context(accepting(_raw))
        ports = {kind: free_ports(len(WAYS) + 1) for kind in KINDS}
        clusters = [cluster("chat", [chat]), cluster("site", [site]), cluster("origin", [origin])]
        clusters += [_http2(kind, ports[kind][0]) for kind in KINDS]
        proxies, logs = {}, {}
        for kind in KINDS:
            *listeners, admin = ports[kind]
            logs[kind] = folder / kind
            ways = (
                {"chat": "chat", "site": "site", "origin": "origin"},
                *(dict.fromkeys(("chat", "site", "origin"), k) for k in KINDS),
            )
            made = [
                _listener(port, name, way, logs[kind], is_last=name == "straight")
                for port, name, way in zip(listeners, WAYS, ways, strict=True)
            ]
            proxies[kind] = stack.enter_context(proxy(kind, bootstrap(made, clusters, admin)))
        yield Mesh(proxies, logs, site)


def _http2(name: str, port: int) -> Json:
    made = cluster(name, [port], http2=True)
    (options,) = made["typed_extension_protocol_options"].values()
    options["explicit_http_config"]["http2_protocol_options"] = {"allow_connect": True}
    return made


def _listener(port: int, name: str, way: dict[str, str], log: Path, *, is_last: bool) -> Json:
    """CONNECT to `site.test` ends at the last proxy; that to `origin.test` is passed on to the origin."""
    ends = {"upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]} if is_last else {}
    tunnel = {"match": {"connect_matcher": {}}}
    off = {"upgrade_configs": [{"upgrade_type": "websocket", "enabled": False}]}
    text = {"match": {"prefix": "/text"}, "direct_response": {"status": 200, "body": {"inline_string": "text"}}}
    asked = {"match": {"prefix": "/asked"}, "route": {"cluster": way["origin"], "timeout": "1s"}}
    routes = [text, to_cluster(way["origin"], "/off", **off), asked, to_cluster(way["chat"])]
    file = {"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": str(log)}
    text_format = {"log_format": {"text_format_source": {"inline_string": LOG + "\n"}}}
    return http_listener(
        port,
        [
            virtual_host("site", [{**tunnel, "route": {"cluster": way["site"], **ends}}], ["site.test:80"]),
            virtual_host("origin", [{**tunnel, "route": {"cluster": way["origin"]}}, *routes], ["*"]),
        ],
        name=name,
        upgrade_configs=[{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}],
        http2_protocol_options={"allow_connect": True},
        stream_idle_timeout="20s",
        access_log=[{"name": "envoy.access_loggers.file", "typed_config": {**file, **text_format}}],
    )


def _echo(connection: websockets.sync.server.ServerConnection) -> None:
    for message in connection:
        connection.send(message)


class _Site(http.server.BaseHTTPRequestHandler):
    """Whom CONNECT leads to. It does not close first: Envoy cuts a tunnel over HTTP/2 whose other end has closed."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(MESSAGE)))
        self.end_headers()
        self.wfile.write(MESSAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _Served:
    """A server in a thread of its own; gives its port."""

    def __init__(self, server: websockets.sync.server.Server | http.server.ThreadingHTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever)

    def __enter__(self) -> int:
        self._thread.start()
        port: int = self._server.socket.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        if isinstance(self._server, http.server.ThreadingHTTPServer):
            self._server.server_close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_websocket_over_http1(kind: str, way: str, mesh: Mesh) -> None:
    port = mesh.port(kind, way)
    with websockets.sync.client.connect(f"ws://127.0.0.1:{port}/chat", max_size=None, proxy=None) as chat:
        chat.send("hello")
        assert chat.recv() == "hello"
        chat.send(MESSAGE)
        assert chat.recv() == MESSAGE
        assert chat.ping().wait(30)
        chat.close(4001, "enough")
    assert chat.close_code == 4001


@pytest.mark.parametrize("way", WAYS)
def test_websocket_over_http2(way: str, mesh: Mesh) -> None:
    # Envoy gives no key to a server of HTTP/1.1, so where it is the last the client has to.
    key = base64.b64encode(b"0123456789abcdef").decode()
    headers = [("sec-websocket-version", "13"), *([("sec-websocket-key", key)] if way == "by-envoy" else [])]
    frames = wsproto.connection.Connection(wsproto.connection.ConnectionType.CLIENT)
    with http2_tunnel(mesh.port("pymesh", way), "chat.test", "websocket", "/chat", headers) as tunnel:
        assert tunnel.answer() == 200
        tunnel.send(frames.send(wsproto.events.BytesMessage(MESSAGE)))
        echoed, taken = b"", 0
        while len(echoed) < len(MESSAGE) and tunnel.read():
            frames.receive_data(tunnel.received[taken:])
            taken = len(tunnel.received)
            echoed += b"".join(
                bytes(event.data) for event in frames.events() if isinstance(event, wsproto.events.BytesMessage)
            )
        assert echoed == MESSAGE
        tunnel.send(frames.send(wsproto.events.CloseConnection(4001, "enough")))
        tunnel.read_to_end()
        frames.receive_data(tunnel.received[taken:])
        (farewell,) = frames.events()
        assert isinstance(farewell, wsproto.events.CloseConnection) and farewell.code == 4001
        # When the server closes, Envoy resets the stream instead.
        assert tunnel.ended != (way == "by-envoy")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_connect_by_curl(kind: str, way: str, mesh: Mesh) -> None:
    command = [peer("curl"), "--silent", "--show-error", "--fail", "--proxytunnel", "--max-time", "60"]
    proxied = ["--proxy", f"http://127.0.0.1:{mesh.port(kind, way)}", "http://site.test/"]
    # Twice: a tunnel is nobody else's afterwards.
    for _ in range(2):
        assert subprocess.run([*command, *proxied], capture_output=True, check=True).stdout == MESSAGE


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_connect_over_http2(kind: str, way: str, mesh: Mesh) -> None:
    with http2_tunnel(mesh.port(kind, way), "site.test:80") as tunnel:
        assert tunnel.answer() == 200
        tunnel.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        while not tunnel.received.endswith(MESSAGE) and tunnel.read():
            pass
        assert tunnel.received.endswith(MESSAGE)


@pytest.mark.parametrize("way", ["straight", "by-pymesh"])
def test_a_half_that_is_closed_is_closed_at_the_other_end(way: str, mesh: Mesh) -> None:
    with http2_tunnel(mesh.port("pymesh", way), "site.test:80") as tunnel:
        tunnel.send(b"GET / HTTP/1.0\r\n\r\n", end=True)
        assert tunnel.read_to_end().endswith(MESSAGE)
        assert tunnel.ended


# What is answered to who asks for a tunnel: (octets or an HTTP/2 request, what is said behind it).
UPGRADE = (
    b"GET /asked/%s HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: k\r\n\r\n"
)
CONNECT = b"CONNECT %s HTTP/1.1\r\nhost: %s\r\n\r\n"
ASKED = {
    "agreed": UPGRADE % b"101",
    "forbidden": UPGRADE % b"403",
    "never answered": UPGRADE % b"never",
    "not on this route": UPGRADE.replace(b"asked/%s", b"off") % (),
    "another protocol": UPGRADE.replace(b": websocket", b": other") % b"101",
    "one of two protocols": UPGRADE.replace(b": websocket", b": websocket, other") % b"101",
    "answered by the proxy": UPGRADE.replace(b"asked/%s", b"text") % (),
    "connect": CONNECT % (b"origin.test:1", b"origin.test:1"),
    "connect, forbidden": CONNECT % (b"forbid.test:1", b"forbid.test:1"),
    "connect with a length": b"CONNECT a.test:1 HTTP/1.1\r\nhost: a.test:1\r\ncontent-length: 3\r\n\r\n",
    "connect with no length": b"CONNECT a.test:1 HTTP/1.1\r\nhost: a.test:1\r\ncontent-length: 0\r\n\r\n",
    "connect with chunks": b"CONNECT a.test:1 HTTP/1.1\r\nhost: a.test:1\r\ntransfer-encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("way", ["straight", "by-envoy"])
@pytest.mark.parametrize("name", ASKED)
def test_same_answers_over_http1(name: str, way: str, mesh: Mesh) -> None:
    _compared(lambda kind: _ask_http1(mesh.port(kind, way), ASKED[name]), way, mesh)


def _ask_http1(port: int, asked: bytes) -> tuple[object, ...]:
    """The answer's status and the fields that frame it, and what came behind it of what was said behind the request."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(asked)
        received = b""
        while b"\r\n\r\n" not in received and (piece := connection.recv(65536)):
            received += piece
        head, _, rest = received.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        fields = re.findall(rb"(?im)^(?:connection|upgrade|transfer-encoding|content-length): [^\r]*", head)
        if status not in (101, 200) or b"content-length" in head:
            return status, sorted(fields)
        connection.sendall(b"ping")
        while len(rest) < 4 and (piece := connection.recv(65536)):
            rest += piece
        return status, sorted(fields), rest


HTTP2_ASKED = {
    "agreed": ("a.test", "websocket", "/asked/101"),
    "forbidden": ("a.test", "websocket", "/asked/403"),
    "never answered": ("a.test", "websocket", "/asked/never"),
    "connect": ("origin.test:1", "", ""),
    "connect, forbidden": ("forbid.test:1", "", ""),
}


@pytest.mark.parametrize("way", ["straight", "by-envoy"])
@pytest.mark.parametrize("name", HTTP2_ASKED)
def test_same_answers_over_http2(name: str, way: str, mesh: Mesh) -> None:
    def ask(kind: str) -> tuple[object, ...]:
        authority, protocol, path = HTTP2_ASKED[name]
        # With a key, since the origin agrees without having looked at it.
        key = [("sec-websocket-key", "k")] if protocol else []
        with http2_tunnel(mesh.port(kind, way), authority, protocol, path, key) as tunnel:
            status = tunnel.answer()
            if status != 200:
                return status, tunnel.read_to_end()
            tunnel.send(b"ping")
            while len(tunnel.received) < 4 and tunnel.read():
                pass
            return status, tunnel.received

    _compared(ask, way, mesh)


def _compared(ask: Callable[[str], tuple[object, ...]], way: str, mesh: Mesh) -> None:
    """Both have answered the same, and have logged the same if they were the only ones to say something."""
    # To Envoy a client that closes its half has left; ours waits for what the other half still says. And it knows no
    # method of a request that it could not read.
    said, logged = {}, {}
    for kind in KINDS:
        before = len(lines_of(mesh.logs[kind]))
        said[kind] = status, *_ = ask(kind)
        if status not in (101, 200, 400, 501):
            # Whichever way it came: the next to ask must not find it in the log.
            assert eventually(partial(_about, mesh, kind, status, before))
            logged[kind] = _about(mesh, kind, status, before) if way == "straight" else []
    assert said["pymesh"] == said["envoy"]
    assert logged.get("pymesh") == logged.get("envoy")


def _about(mesh: Mesh, kind: str, status: object, before: int) -> list[str]:
    """What was logged about requests with this status: the tunnels of other tests may be logged late."""
    return sorted({line for line in lines_of(mesh.logs[kind])[before:] if f" {status} " in line})


def test_a_200_is_no_agreement(mesh: Mesh) -> None:
    """Where Envoy says 101 to the client, or 200 to that of HTTP/2, nothing has been agreed to: ours says so."""
    status, *_ = _ask_http1(mesh.port("pymesh"), UPGRADE % b"200")
    assert status == 200
    with http2_tunnel(mesh.port("pymesh"), "a.test", "websocket", "/asked/200") as tunnel:
        assert tunnel.answer() == 502


@pytest.mark.parametrize("way", ["straight", "by-pymesh"])
def test_a_slow_reader_holds_the_sender_back(way: str, mesh: Mesh) -> None:
    """What one end does not read is not piled up in the proxy; when it reads on, nothing is missing."""
    before = mesh.proxies["pymesh"].resident_kib()
    with socket.create_connection(("127.0.0.1", mesh.port("pymesh", way)), timeout=30) as connection:
        connection.sendall(UPGRADE % b"flood")
        assert connection.recv(12) == b"HTTP/1.1 101"
        received = 12
        grown = 0
        while piece := connection.recv(1 << 20):
            if received < 1 << 20:
                # The origin has written until it could no more.
                eventually(lambda: False, timeout=0.2)
                grown = max(grown, mesh.proxies["pymesh"].resident_kib() - before)
            received += len(piece)
    assert received > FLOOD and grown < 16 * 1024, (received, grown)


def test_counted_as_envoy_counts(mesh: Mesh) -> None:
    counted = {}
    for kind in KINDS:
        names = ["downstream_cx_upgrades_total", "downstream_cx_upgrades_active", "downstream_rq_ws_on_non_ws_route"]
        assert eventually(partial(_has_no_upgrades, mesh.proxies[kind]), timeout=30)
        before = mesh.proxies[kind].stats()
        with socket.create_connection(("127.0.0.1", mesh.port(kind)), timeout=30) as connection:
            connection.sendall(UPGRADE % b"101")
            assert connection.recv(12) == b"HTTP/1.1 101"
            _ask_http1(mesh.port(kind), ASKED["not on this route"])
            held = mesh.proxies[kind].stats()
            counted[kind] = [held[f"http.straight.{name}"] - before[f"http.straight.{name}"] for name in names]
        assert eventually(partial(_has_no_upgrades, mesh.proxies[kind]), timeout=30)
    assert counted["pymesh"] == counted["envoy"] == [1, 1, 1]


def _has_no_upgrades(kind: Proxy) -> bool:
    return kind.stats()["http.straight.downstream_cx_upgrades_active"] == 0


FLOOD = 64 << 20


def _raw(connection: socket.socket) -> None:
    """Answers by what is asked for, and echoes what comes behind it; agrees without a look at the key."""
    head = b""
    while b"\r\n\r\n" not in head:
        if not (piece := connection.recv(65536)):
            return
        head += piece
    line = head.split(b"\r\n")[0]
    if b"/101" in line or b"/flood" in line:
        connection.sendall(b"HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    elif b"/403" in line or b"forbid" in line:
        connection.sendall(b"HTTP/1.1 403 No\r\ncontent-length: 5\r\n\r\nhello")
    elif line.startswith(b"CONNECT"):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    elif b"/200" in line:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
    if b"/flood" in line:
        for _ in range(FLOOD >> 20):
            connection.sendall(bytes(1 << 20))
        return
    while piece := connection.recv(65536):
        connection.sendall(piece)
