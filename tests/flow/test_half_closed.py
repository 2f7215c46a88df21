"""A half that closes: after a whole request the answer still comes; inside one, the origin learns that it broke off."""

from __future__ import annotations

import socket

import pytest

from tests.flow.mesh import MIB, WAYS, Mesh
from tests.proxy.running import eventually

LATE = b"x-want-delay: 0.3\r\n"


@pytest.mark.parametrize("name", WAYS)
def test_after_a_request_the_answer_still_comes(name: str, mesh: Mesh) -> None:
    with socket.create_connection(("127.0.0.1", mesh.ports["http1"]), timeout=20) as client:
        client.sendall(_head(name, b"GET", LATE, b"x-want-bytes: %d\r\n" % MIB))
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
