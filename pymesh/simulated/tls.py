"""A client that speaks TLS over a simulated connection, and believes whatever certificate it is shown."""

from __future__ import annotations

import ssl

from pymesh.simulated.network import Dialled


class TlsClient:
    """TLS over a connection to a proxy. Nothing happens but in :meth:`pump`, which is for every turn of the network."""

    def __init__(self, dialled: Dialled, server_name: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        self._dialled = dialled
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._is_ready = False
        self._seen = 0
        self._unsent = b""
        self.received = bytearray()
        #: Why there is no TLS, or none any more.
        self.failure: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self._dialled.is_over or self.failure is not None

    def send(self, octets: bytes) -> None:
        """Octets for the server, once the handshake is done."""
        self._unsent += octets
        self.pump()

    def close(self) -> None:
        """End the connection."""
        self._dialled.close()

    def pump(self) -> None:
        """Go on with what has arrived."""
        self._incoming.write(bytes(self._dialled.received[self._seen :]))
        self._seen = len(self._dialled.received)
        try:
            if not self._is_ready:
                self._tls.do_handshake()
                self._is_ready = True
            if self._unsent:
                self._tls.write(self._unsent)
                self._unsent = b""
            while piece := self._tls.read(65536):
                self.received += piece
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.failure = self.failure or error.reason or str(error)
        octets = self._outgoing.read()
        if octets:
            self._dialled.send(octets)
