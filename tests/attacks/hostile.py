"""An HTTP/2 endpoint that attacks whoever asks it, in the way that the path says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import hpack
from hyperframe.frame import HeadersFrame, PingFrame, SettingsFrame

from tests.attacks.frames import PREFACE, data, headers

_MOST = 200  # writes on one connection


def _answer(path: str) -> bytes:
    """What is said again and again on the stream."""
    encoder = hpack.Encoder()
    if path.endswith("ping"):
        return PingFrame(0, b"12345678").serialize() * 2000
    if path.endswith("interim"):
        return headers(1, encoder.encode([(":status", "103")]), "END_HEADERS") * 50
    if path.endswith("head"):
        block = encoder.encode([(":status", "200"), ("x-bomb", "v" * 3900)]) + b"\xbe" * 8000
        return headers(1, block, "END_HEADERS")
    return headers(1, encoder.encode([(":status", "200")]), "END_HEADERS") + data(1, b"") * 100


def _asked(received: bytes) -> str | None:
    """The path of the first request, once it is there."""
    at = len(PREFACE)
    while len(received) >= (start := at + 9) and len(received) >= (
        end := start + int.from_bytes(received[at : at + 3])
    ):
        if received[at + 3] == HeadersFrame.type:
            return str(dict(hpack.Decoder().decode(received[start:end]))[":path"])
        at = end
    return None


def _serve(connection: socket.socket) -> None:
    with connection:
        connection.settimeout(2)
        try:
            received = b""
            while (path := _asked(received)) is None:
                if not (piece := connection.recv(65536)):
                    return
                received += piece
            connection.sendall(SettingsFrame(0).serialize())
            octets = _answer(path)
            for _ in range(_MOST):
                connection.sendall(octets)
        except OSError:
            pass


@contextmanager
def hostile_endpoint() -> Iterator[int]:
    """The endpoint's port, for the length of the block."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        listening.settimeout(0.2)
        ended = threading.Event()
        threads: list[threading.Thread] = []

        def accept() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                threads.append(threading.Thread(target=_serve, args=(connection,)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listening.getsockname()[1]
        finally:
            ended.set()
            accepting.join()
            for thread in threads:
                thread.join()
