"""TLS whose halves close one by one.

Python's `SSLSocket` closes both or none; an `SSLObject` over buffers can say close_notify and read on, as programs over
other libraries do.
"""

from __future__ import annotations

import socket
import ssl


class TlsEnd:
    """One end of a TLS connection, its handshake done."""

    def __init__(
        self, raw: socket.socket, context: ssl.SSLContext, *, server: bool = False, name: str | None = None
    ) -> None:
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=name)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
        self._flush()

    def sendall(self, octets: bytes) -> None:
        """Encrypt and send everything."""
        for start in range(0, len(octets), 1 << 16):
            self._tls.write(octets[start : start + (1 << 16)])
            self._flush()

    def close_half(self) -> None:
        """Say close_notify: no more will be sent. Reading goes on."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # the other half is still open
        self._flush()

    def everything(self) -> bytes:
        """All that the peer says until its close_notify; an end without it raises."""
        pieces = []
        while True:
            try:
                piece = self._tls.read(1 << 16)
                if not piece:
                    return b"".join(pieces)
                pieces.append(piece)
            except ssl.SSLWantReadError:
                self._fill()
            except ssl.SSLZeroReturnError:
                return b"".join(pieces)

    def _fill(self) -> None:
        octets = self._raw.recv(1 << 16)
        if not octets:
            raise ssl.SSLEOFError("the connection ended without close_notify")
        self._incoming.write(octets)

    def _flush(self) -> None:
        self._raw.sendall(self._outgoing.read())


class PlainEnd:
    """The same over a bare socket."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw

    def sendall(self, octets: bytes) -> None:
        """Send everything."""
        self._raw.sendall(octets)

    def close_half(self) -> None:
        """Say FIN; reading goes on."""
        self._raw.shutdown(socket.SHUT_WR)

    def everything(self) -> bytes:
        """All that the peer says until its FIN."""
        pieces = []
        while piece := self._raw.recv(1 << 16):
            pieces.append(piece)
        return b"".join(pieces)
