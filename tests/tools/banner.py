"""Servers that speak first, as mail and database servers do: each says its own line, then closes its half."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


@contextmanager
def banners(lines: Sequence[bytes]) -> Iterator[list[int]]:
    """A server for each line, on loopback; their ports, for as long as the block lasts."""
    stop, stopped = socket.socketpair()
    servers = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in lines]
    thread = threading.Thread(target=_serve, args=(list(zip(servers, lines, strict=True)), stopped))
    thread.start()
    try:
        yield [server.getsockname()[1] for server in servers]
    finally:
        stop.close()
        thread.join()
        stopped.close()
        for server in servers:
            server.close()


def _serve(servers: Sequence[tuple[socket.socket, bytes]], stopped: socket.socket) -> None:
    open_ends: set[socket.socket] = set()
    with selectors.DefaultSelector() as selector:
        selector.register(stopped, selectors.EVENT_READ)
        for server, line in servers:
            selector.register(server, selectors.EVENT_READ, line)
        while True:
            for key, _ in selector.select():
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is stopped:
                    for left in open_ends:
                        left.close()
                    return
                if key.data is not None:
                    peer, _ = end.accept()
                    with suppress(OSError):
                        peer.sendall(key.data)
                        peer.shutdown(socket.SHUT_WR)
                    open_ends.add(peer)
                    selector.register(peer, selectors.EVENT_READ)
                    continue
                # Whatever the client says is read, so that closing does not destroy the line on its way.
                with suppress(OSError):
                    if end.recv(65536):
                        continue
                selector.unregister(end)
                open_ends.discard(end)
                end.close()
