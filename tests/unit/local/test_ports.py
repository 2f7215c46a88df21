"""Ports of local meshes: none twice, none that somebody listens on, none of another mesh."""

import socket

from pymesh.local.ports import Ports

#: More than one block has.
MANY = 150


def test_two_meshes_share_no_port() -> None:
    one, other = Ports(), Ports()
    try:
        # Nothing is bound yet: only the claims keep them apart.
        taken = [port for _ in range(MANY) for port in (one.take(), other.take())]
    finally:
        one.close()
        other.close()
    assert len(set(taken)) == 2 * MANY


def test_a_port_that_somebody_listens_on_is_left_out() -> None:
    ports = Ports()
    try:
        first = ports.take()
        with socket.create_server(("127.0.0.1", first - 1)):
            assert ports.take() != first - 1
    finally:
        ports.close()
