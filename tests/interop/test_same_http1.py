"""Ours and Envoy agree on the corners of HTTP/1: old clients, expectations, interim and early answers, case of names.

Octets are written as they stand, to a listener per setting; an origin that is told by the path what to say records what
it was asked. Both proxies must have said the same to the client, and have asked the same.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, proxy
from tests.tools.ports import free_ports

KINDS = ("pymesh", "envoy")
_FORMATTER = "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
_PRESERVE: Json = {
    "header_key_format": {"stateful_formatter": {"name": "preserve_case", "typed_config": {"@type": _FORMATTER}}}
}
_PROPER: Json = {"header_key_format": {"proper_case_words": {}}}
_OLD: Json = {"accept_http_10": True, "default_host_for_http_10": "default.test"}

# Listener -> HTTP/1 options of the connection manager, of the cluster, and other fields of the manager.
LISTENERS: dict[str, tuple[Json, Json, Json]] = {
    "plain": ({}, {}, {}),
    "old": (_OLD, {}, {}),
    "continue": ({}, {}, {"proxy_100_continue": True}),
    "trailers": ({"enable_trailers": True}, {"enable_trailers": True}, {}),
    "preserve": (_PRESERVE, _PRESERVE, {}),
    "preserve-upstream": ({}, _PRESERVE, {}),
    "preserve-downstream": (_PRESERVE, {}, {}),
    "proper": (_PROPER, _PROPER, {}),
    "mixed": (_PRESERVE, _PROPER, {}),
}


def ask(path: str, *fields: str, method: str = "GET", version: str = "1.1", host: str = "Host: a.test") -> bytes:
    """A request head."""
    lines = [f"{method} {path} HTTP/{version}", host, *fields]
    return "\r\n".join(filter(None, lines)).encode() + b"\r\n\r\n"


_LAST = "Connection: close"
_FIVE = "Content-Length: 5"
_EXPECT = ("Expect: 100-continue", _FIVE, _LAST)
_CHUNKED = "Transfer-Encoding: chunked"
_CASES = ("X-My-Header: a", "x-LOWER: b", "ETag: q", "X-my-header: second", "X_Odd-name: c")

SAID: dict[str, list[bytes]] = {
    "old: default host": [ask("/", version="1.0", host="")],
    "old: own host": [ask("/", version="1.0")],
    "old: host of the target": [ask("http://other.test/", version="1.0", host="")],
    "old: kept alive": [ask("/", "Connection: keep-alive", version="1.0"), ask("/", version="1.0")],
    "old: an answer in chunks": [ask("/chunks", version="1.0")],
    "old: an answer in chunks, kept alive": [ask("/chunks", "Connection: keep-alive", version="1.0")],
    "old: interim": [ask("/103", version="1.0")],
    "old: head": [ask("/", method="HEAD", version="1.0")],
    **{
        f"{listener}: {name}": pieces
        for listener in ("plain", "continue")
        for name, pieces in {
            "expectation": [ask("/", *_EXPECT, method="POST"), b"hello"],
            "expectation that the origin meets": [ask("/100", *_EXPECT, method="POST"), b"hello"],
            "expectation that the origin fails": [ask("/413", *_EXPECT, method="POST")],
            "unknown expectation": [ask("/", "Expect: 200-maybe", _LAST)],
            "early hints": [ask("/103", _LAST)],
            "processing": [ask("/102", _LAST)],
            "continue that nobody has asked for": [ask("/100", _LAST)],
            "early answer": [ask("/413", "Content-Length: 50", method="POST"), b"hello"],
            "early answer to chunks": [ask("/413", _CHUNKED, method="POST"), b"5\r\nhello\r\n"],
        }.items()
    },
    "continue: expectation not waited for": [ask("/", *_EXPECT, method="POST") + b"hello"],
    "trailers: of an answer": [ask("/trailers", "TE: trailers", _LAST)],
    "trailers: of a request": [ask("/", _CHUNKED, _LAST, method="POST"), b"5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n"],
    **{
        f"{listener}: names": [ask("/names", *_CASES, _FIVE, _LAST, method="POST", host="HoSt: a.test") + b"hello"]
        for listener in ("plain", "preserve", "preserve-upstream", "preserve-downstream", "proper", "mixed")
    },
    **{f"{listener}: local answer": [ask("/local", *_CASES, _LAST)] for listener in ("preserve", "proper")},
}


@dataclass(frozen=True)
class Mesh:
    """Both proxies, and what the origin was asked."""

    proxies: dict[str, Proxy]
    asked: list[bytes]


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with ExitStack() as stack:
        asked: list[bytes] = []
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        thread = threading.Thread(target=_serve_all, args=(listening, asked))
        thread.start()
        stack.callback(thread.join)
        stack.callback(listening.shutdown, socket.SHUT_RDWR)
        local = {"match": {"path": "/local"}, "direct_response": {"status": 200, "body": {"inline_string": "local"}}}
        proxies = {}
        for kind in KINDS:
            *ports, admin = free_ports(len(LISTENERS) + 1)
            listeners, clusters = [], []
            for port, (name, (http1, upstream, fields)) in zip(ports, LISTENERS.items(), strict=True):
                hosts = [virtual_host("all", [local, to_cluster(name)])]
                listeners.append(http_listener(port, hosts, name=name, http_protocol_options=http1, **fields))
                made = cluster(name, [listening.getsockname()[1]], idle_timeout="3600s")
                (options,) = made["typed_extension_protocol_options"].values()
                options["explicit_http_config"] = {"http_protocol_options": upstream}
                clusters.append(made)
            proxies[kind] = stack.enter_context(proxy(kind, bootstrap(listeners, clusters, admin)))
        yield Mesh(proxies, asked)


@pytest.mark.parametrize("name", SAID)
def test_same(name: str, mesh: Mesh) -> None:
    listener = name.partition(":")[0]
    said, asked = {}, {}
    for kind in KINDS:
        mesh.asked.clear()
        said[kind] = _talk(mesh.proxies[kind].ports[list(LISTENERS).index(listener)], SAID[name])
        asked[kind] = [_comparable(head) for head in mesh.asked]
    assert said["pymesh"] == said["envoy"]
    assert asked["pymesh"] == asked["envoy"]


def test_trailers_always_pass(mesh: Mesh) -> None:
    """Envoy drops them unless it is told not to, and with them the status of a gRPC call to an HTTP/1 server."""
    (_, _, body), *_ = _talk(mesh.proxies["pymesh"].port, SAID["trailers: of an answer"])
    assert body.endswith(b"0\r\nx-t: 1\r\n\r\n")


def _talk(port: int, pieces: list[bytes]) -> list[tuple[str, list[str], bytes]]:
    """Every message of the proxy until it closes: status, fields, and what stands behind the last head."""
    first, *rest = pieces
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, suppress(ConnectionError):
        connection.sendall(first)
        for piece in rest:
            # The next piece is for whoever has been told to go on, or is tired of waiting.
            connection.settimeout(0.5)
            with suppress(TimeoutError):
                received += connection.recv(65536)
            connection.settimeout(30)
            connection.sendall(piece)
        while piece := connection.recv(65536):
            received += piece
    messages = re.split(rb"(?=HTTP/1\.[01] \d\d\d )", received)[1:]
    return [(message[:12].decode(), *_split(message)) for message in messages]


def _split(message: bytes) -> tuple[list[str], bytes]:
    head, _, body = message.partition(b"\r\n\r\n")
    return _comparable(head)[1:], body


def _comparable(head: bytes) -> list[str]:
    """The first line and the fields in one order, without values that are different each time."""
    line, *fields = head.decode("latin-1").split("\r\n")
    volatile = re.compile(r"(?i)(date|x-request-id|x-envoy-upstream-service-time): .*")
    return [line, *sorted(volatile.sub(r"\1", field) for field in fields)]


def _serve_all(listening: socket.socket, asked: list[bytes]) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, asked), daemon=True).start()


def _serve(connection: socket.socket, asked: list[bytes]) -> None:
    with connection, suppress(OSError):
        unread = b""
        while True:
            while b"\r\n\r\n" not in unread:
                if not (piece := connection.recv(65536)):
                    return
                unread += piece
            head, _, unread = unread.partition(b"\r\n\r\n")
            asked.append(head)
            path = head.split()[1]
            if path in (b"/100", b"/102", b"/103"):
                connection.sendall(b"HTTP/1.1 %s Interim\r\nX-Interim: 1\r\n\r\n" % path[1:])
            if path == b"/413":
                # Without having read what follows.
                connection.sendall(b"HTTP/1.1 413 Too Much\r\nContent-Length: 5\r\n\r\nhello")
                while connection.recv(65536):
                    pass
                return
            lower = head.lower()
            end = b"\r\n\r\n" if b"chunked" in lower else b"hello" if b"content-length: 5" in lower else b""
            while not unread.endswith(end):
                unread += connection.recv(65536)
            unread = b""
            framed = {
                b"/chunks": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                b"/trailers": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n",
                b"/names": b"Content-Length: 5\r\nX-My-Header: a\r\nx-LOWER: b\r\nETag: c\r\n\r\nhello",
            }.get(path, b"Content-Length: 5\r\n\r\n" + (b"" if head.startswith(b"HEAD") else b"hello"))
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + framed)
