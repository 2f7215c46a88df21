"""A client that closes its half has left, as for Envoy: nobody works on for it, and no part passes for the whole."""

from __future__ import annotations

import socket

import pytest

from tests.flow.mesh import MIB, WAYS, Mesh
from tests.proxy.running import eventually


@pytest.mark.parametrize("name", WAYS)
def test_after_a_request_the_origin_learns_of_it(name: str, mesh: Mesh) -> None:
    before = len(mesh.origins[name].requests)
    with socket.create_connection(("127.0.0.1", mesh.ports["http1"]), timeout=20) as client:
        client.sendall(_head(name, b"GET", b"x-want-delay: 3600\r\n"))
        assert eventually(lambda: len(mesh.origins[name].requests) > before)
        client.shutdown(socket.SHUT_WR)
        assert _all(client) == b""
    assert mesh.quiet(), "the request to the origin has ended too"


def test_what_was_answered_before_is_still_read(mesh: Mesh) -> None:
    before = len(mesh.origins["http1"].requests)
    with socket.create_connection(("127.0.0.1", mesh.ports["http1"]), timeout=20) as client:
        first = _head("http1", b"GET", b"x-want-bytes: %d\r\n" % MIB)
        client.sendall(first + _head("http1", b"GET", b"x-want-delay: 3600\r\n"))
        # The second is asked when the first is answered, and that waits for a client that has read nothing yet.
        assert eventually(lambda: len(mesh.origins["http1"].requests) == before + 2)
        client.shutdown(socket.SHUT_WR)
        head, _, body = _all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert len(body) == MIB


@pytest.mark.parametrize("name", WAYS)
def test_inside_a_body_the_request_is_broken_off(name: str, mesh: Mesh) -> None:
    origin = mesh.origins[name]
    aborted, completed = origin.aborted, origin.completed
    with socket.create_connection(("127.0.0.1", mesh.ports["http1"]), timeout=20) as client:
        before = len(origin.requests)
        client.sendall(_head(name, b"POST", b"content-length: 1000\r\n") + bytes(500))
        assert eventually(lambda: len(origin.requests) > before)
        client.shutdown(socket.SHUT_WR)
        assert b" 200 " not in _all(client)
    assert eventually(lambda: origin.aborted == aborted + 1)
    assert origin.completed == completed


def test_inside_a_head_it_is_no_request(mesh: Mesh) -> None:
    before = len(mesh.origins["http1"].requests)
    with socket.create_connection(("127.0.0.1", mesh.ports["http1"]), timeout=20) as client:
        client.sendall(_head("http1", b"GET")[:-2])
        client.shutdown(socket.SHUT_WR)
        assert b" 200 " not in _all(client)
    assert len(mesh.origins["http1"].requests) == before


def _head(name: str, method: bytes, *fields: bytes) -> bytes:
    return method + b" /%b/ HTTP/1.1\r\nhost: a\r\n" % name.encode() + b"".join(fields) + b"\r\n"


def _all(client: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := client.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)
