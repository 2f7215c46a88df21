"""The TCP proxy under the same pressure, in cleartext and with TLS on both sides; peers here are plain sockets."""

from __future__ import annotations

import hashlib
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

import pytest

from tests.flow.mesh import MIB
from tests.proxy.bootstrap import Json, bootstrap, cluster, downstream_tls, tcp_listener, upstream_tls
from tests.proxy.running import Proxy, eventually
from tests.tools.certificates import Authority, KeyPair
from tests.tools.ports import free_ports

CONTENT = random.Random(11).randbytes(10 * MIB)
BODY = 64 * MIB
WAYS = ["clear", "tls"]


@dataclass
class Relay:
    """A proxy between a client's socket and a server's: `connect` gives both ends of one proxied connection."""

    proxy: Proxy
    server: socket.socket
    client_tls: ssl.SSLContext | None
    server_tls: ssl.SSLContext | None

    @contextmanager
    def connect(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """A client and the server's end of its connection."""
        raw = socket.create_connection(("127.0.0.1", self.proxy.port), timeout=20)
        accepted: list[socket.socket] = []

        def accept() -> None:
            peer, _ = self.server.accept()
            peer.settimeout(20)
            accepted.append(self.server_tls.wrap_socket(peer, server_side=True) if self.server_tls else peer)

        accepting = threading.Thread(target=accept)
        accepting.start()
        client = self.client_tls.wrap_socket(raw, server_hostname="localhost") if self.client_tls else raw
        accepting.join(20)
        with client, accepted[0] as peer:
            yield client, peer


@pytest.fixture(scope="module", params=WAYS)
def running_relay(
    request: pytest.FixtureRequest,
    run_proxy: Callable[[Json], AbstractContextManager[Proxy]],
    authority: Authority,
) -> Iterator[Relay]:
    secure = request.param == "tls"
    pair = authority.issue("relay", dns=["localhost"])
    port, admin_port = free_ports(2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        up = upstream_tls(str(authority.root), "localhost") if secure else None
        down = downstream_tls(pair) if secure else None
        clusters = [cluster("server", [server.getsockname()[1]], tls=up)]
        with run_proxy(bootstrap([tcp_listener(port, "server", tls=down)], clusters, admin_port)) as proxy:
            if not secure:
                server.accept()[0].close()  # whoever looked whether the proxy listens was passed on as well
                yield Relay(proxy, server, None, None)
            else:
                yield Relay(proxy, server, ssl.create_default_context(cafile=str(authority.root)), _server_tls(pair))


@pytest.fixture
def relay(running_relay: Relay) -> Iterator[Relay]:
    """The proxy; afterwards it holds no connection."""
    yield running_relay
    assert eventually(lambda: not running_relay.proxy.active()), running_relay.proxy.active()


def test_ten_megabytes_both_ways_at_once(relay: Relay) -> None:
    with relay.connect() as ends:
        got: dict[int, str] = {}
        work = [threading.Thread(target=_exchange, args=(end, got)) for end in ends]
        for one in work:
            one.start()
        for one in work:
            one.join(40)
    assert list(got.values()) == [hashlib.sha256(CONTENT).hexdigest()] * 2


@pytest.mark.parametrize("direction", ["to the client", "to the server"])
def test_who_does_not_read_stops_who_sends(direction: str, relay: Relay) -> None:
    before = relay.proxy.resident_kib()
    with relay.connect() as (client, server):
        sender, reader = (server, client) if direction == "to the client" else (client, server)
        sender.settimeout(1)
        sent = _until_it_stops(sender)
        assert sent < BODY
        assert relay.proxy.resident_kib() < before + 4096
        # Room is made, and it goes on.
        taken = 0
        while taken < sent // 2:
            taken += len(reader.recv(MIB))
        sender.settimeout(20)
        assert sender.send(CONTENT[:65536]) > 0


# In cleartext only: Python's `ssl` cannot close one half.
@pytest.mark.parametrize("running_relay", ["clear"], indirect=True)
@pytest.mark.parametrize("first", ["client", "server"])
def test_a_half_that_closes_leaves_the_other_open(first: str, relay: Relay) -> None:
    with relay.connect() as ends:
        one, other = ends if first == "client" else ends[::-1]
        one.sendall(b"last words")
        one.shutdown(socket.SHUT_WR)
        assert _all(other) == b"last words"
        time.sleep(0.1)

        def answer() -> None:
            other.sendall(CONTENT)
            other.shutdown(socket.SHUT_WR)

        # While the other reads: nobody in between has to hold so much.
        answering = threading.Thread(target=answer)
        answering.start()
        assert hashlib.sha256(_all(one)).digest() == hashlib.sha256(CONTENT).digest()
        answering.join(20)


@pytest.mark.parametrize("first", ["client", "server"])
def test_who_leaves_takes_the_other_along(first: str, relay: Relay) -> None:
    with relay.connect() as ends:
        one, other = ends if first == "client" else ends[::-1]
        other.sendall(CONTENT[:MIB])
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        one.close()
        with pytest.raises((ConnectionError, ssl.SSLError)):
            _send_for_ever(other)


def test_nobody_listens_behind(relay: Relay, run_proxy: Callable[[Json], AbstractContextManager[Proxy]]) -> None:
    port, nobody, admin_port = free_ports(3)
    config = bootstrap([tcp_listener(port, "gone")], [cluster("gone", [nobody])], admin_port)
    with run_proxy(config) as proxy:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                assert _all(client) == b""
        assert eventually(lambda: not proxy.active()), proxy.active()


def _exchange(end: socket.socket, got: dict[int, str]) -> None:
    """Send and receive by turns, in one thread: an `SSLSocket` is not for two."""
    end.setblocking(False)
    digest, left, unsent = hashlib.sha256(), len(CONTENT), memoryview(CONTENT)
    while left or unsent:
        stuck = True
        with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            unsent = unsent[end.send(unsent[:65536]) :] if unsent else unsent
            stuck = False
        with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if left:
                piece = end.recv(min(left, MIB))
                if not piece:
                    return
                digest.update(piece)
                left -= len(piece)
                stuck = False
        if stuck:
            select.select([end], [end] if unsent else [], [], 0.05)
    got[id(end)] = digest.hexdigest()


def _until_it_stops(sender: socket.socket) -> int:
    """Send until the socket takes no more, or far too much has gone; how much it was."""
    sent = 0
    with suppress(TimeoutError):
        while sent < BODY:
            sent += sender.send(CONTENT[:65536])
    return sent


def _send_for_ever(sender: socket.socket) -> None:
    while True:
        sender.sendall(CONTENT[:65536])


def _all(end: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := end.recv(MIB):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def _server_tls(pair: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.chain, pair.key)
    return context
