"""What a drain does to connections that traffic seldom shows: in a handshake, between requests, without a last word."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.lifecycle import websocket
from tests.lifecycle.load import Origins, origins
from tests.lifecycle.replica import PATIENCE, clusters, ends, listener, replica
from tests.proxy.bootstrap import (
    bootstrap,
    cluster,
    downstream_tls,
    http_listener,
    tcp_listener,
    to_cluster,
    virtual_host,
)
from tests.proxy.running import eventually
from tests.tools.certificates import Authority
from tests.tools.ports import free_port, free_ports
from tests.tools.processes import Running, accepts

_ASK = b"GET / HTTP/1.1\r\nhost: load.test\r\n\r\n"


@pytest.fixture(scope="module", name="behind")
def _behind() -> Iterator[Origins]:
    with origins() as made:
        yield made


def told(one: Running, port: int) -> None:
    """Sends SIGTERM; returns when nobody is accepted any more."""
    one.signal(SIGTERM)
    assert eventually(lambda: not accepts(port), PATIENCE)


def ask(connection: socket.socket) -> bytes:
    """One request on an open connection: all that comes until the proxy closes it."""
    connection.settimeout(PATIENCE)
    connection.sendall(_ASK)
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer


def test_a_tls_handshake_goes_on(behind: Origins, authority: Authority, tmp_path: Path) -> None:
    port = free_port()
    tls = downstream_tls(authority.issue("localhost", dns=["localhost"]))
    routes = [virtual_host("all", [to_cluster("http")])]
    made = bootstrap([http_listener(port, routes, tls=tls)], [cluster("http", [behind.http])], free_port())
    context = ssl.create_default_context(cafile=str(authority.root))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with replica(tmp_path, made, ready=[port]) as one, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(PATIENCE)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        hello = outgoing.read()
        connection.sendall(hello[:100])
        told(one, port)
        connection.sendall(hello[100:])
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
        client.write(_ASK)
        connection.sendall(outgoing.read())
        answer = b""
        while b"\r\n\r\n" not in answer:
            incoming.write(connection.recv(65536))
            try:
                answer += client.read(65536)
            except ssl.SSLWantReadError:
                continue
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"connection: close\r\n" in answer
        ends(one)


def test_idle_and_silent_connections_are_served_once_more(behind: Origins, tmp_path: Path) -> None:
    """One that has asked before, and one that has only connected."""
    port = free_port()
    made = bootstrap([listener(port)], clusters(behind), free_port())
    with replica(tmp_path, made, ready=[port]) as one:
        with closing(_connect(port)) as used, closing(_connect(port)) as silent:
            used.sendall(_ASK)
            first = http.client.HTTPResponse(used)
            first.begin()
            assert first.read() is not None and not first.will_close
            told(one, port)
            for connection in (used, silent):
                answer = ask(connection)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"connection: close\r\n" in answer
        ends(one)


def test_new_connections_are_taken_as_long_as_asked(behind: Origins, tmp_path: Path) -> None:
    port, admin = free_ports(2)
    made = bootstrap([listener(port)], clusters(behind), admin)
    with replica(tmp_path, made, "--drain-accept-time-s", "600", "--drain-time-s", "600", ready=[port]) as one:
        one.signal(SIGTERM)
        assert eventually(lambda: _phase(admin) == "DRAINING", PATIENCE)
        for _ in range(3):
            with closing(_connect(port)) as connection:
                answer = ask(connection)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"connection: close\r\n" in answer
        one.signal(SIGTERM)  # enough
        ends(one)


def test_relays_and_tunnels_go_on_until_the_deadline(behind: Origins, tmp_path: Path) -> None:
    port, tcp = free_ports(2)
    listeners = [listener(port), tcp_listener(tcp, "websocket")]
    made = bootstrap(listeners, clusters(behind), free_port())

    async def talk(one: Running) -> None:
        clients = [websocket.Client(*await asyncio.open_connection("127.0.0.1", at)) for at in (port, tcp)]
        for client in clients:
            await client.open("/websocket")
        begun = time.monotonic()
        await asyncio.to_thread(told, one, port)
        for client in clients:
            await client.echo(b"still here")
        assert one.alive()
        for client in clients:
            assert await client.end() == b""
        # The deadline is theirs alone: nothing else holds the process.
        assert time.monotonic() - begun >= 3

    with replica(tmp_path, made, "--drain-time-s", "3", ready=[port, tcp]) as one:
        asyncio.run(asyncio.wait_for(talk(one), PATIENCE))
        ends(one)


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def _phase(admin: int) -> str:
    with closing(_connect(admin)) as connection:
        connection.sendall(b"GET /ready HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer.decode().rpartition("\r\n\r\n")[2].strip()
