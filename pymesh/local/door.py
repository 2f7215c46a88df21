"""The way into a mesh that has a network of its own: sockets of the host, relayed inside.

A listening socket belongs to the network namespace in which it was made. The process outside makes one for each port
that the process inside asks for, and hands it over a Unix socket; whoever connects to it is served inside. The Unix
socket is also how each learns that the other is gone.

    inside -> outside   the port that is wanted, 0 for a free one, and a line feed
    outside -> inside   the port that it is, with the socket; or why not
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from pymesh.capture.namespace import NetworkNamespace
from pymesh.local import http
from pymesh.local.errors import LocalMeshError
from pymesh.local.plan import ADDRESS
from pymesh.local.ports import Ports, require_free

_CHUNK = 64 << 10
_LONGEST = 4096


class GoneError(LocalMeshError):
    """The process outside has been told to end, or was killed."""


class Outside:
    """Makes the sockets."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._ports = Ports()

    def serve(self) -> None:
        """Until the process inside is gone."""
        with contextlib.suppress(OSError):
            while asked := self._channel.recv(64):
                try:
                    with self._made(int(asked)) as made:
                        number = str(made.getsockname()[1]).encode()
                        socket.send_fds(self._channel, [number], [made.fileno()])
                except (LocalMeshError, OSError) as error:
                    self._channel.send(f"error: {error}".encode()[:_LONGEST])
        self._ports.close()

    def _made(self, port: int) -> socket.socket:
        if port:
            require_free(port, "the mesh")
        return socket.create_server((ADDRESS, port or self._ports.take()), backlog=128)


class Inside:
    """Asks for them, and relays."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._servers: list[asyncio.Server] = []

    def ask(self, port: int) -> socket.socket:
        """A listening socket of the host. Raises :class:`LocalMeshError`."""
        try:
            self._channel.send(f"{port}\n".encode())
            said, files, _, _ = socket.recv_fds(self._channel, _LONGEST, 1)
        except OSError:
            said, files = b"", []
        if not said:
            raise GoneError("the process outside is gone")
        if not files:
            raise LocalMeshError(said.decode().removeprefix("error: "))
        return socket.socket(fileno=files[0])

    async def open(self, made: socket.socket, port: int, namespace: NetworkNamespace | None = None) -> None:
        """Lead who connects to the socket to a port on loopback, ours or another namespace's."""

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there, here = await http.connect(port, namespace=namespace)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_pump(reader, here), _pump(there, writer))
            here.close()
            writer.close()

        self._servers.append(await asyncio.start_server(relay, sock=made))

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` when the process outside is."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            with contextlib.suppress(BlockingIOError):
                if not self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                    loop.remove_reader(self._channel)
                    gone()

        loop.add_reader(self._channel, look)

    def close(self) -> None:
        """Take no more."""
        for one in self._servers:
            one.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
    except OSError:
        sink.close()
