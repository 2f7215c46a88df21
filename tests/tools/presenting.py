"""Both ends of TLS that show any certificate at all, also one that every other library refuses to load.

tlslite-ng reads of a certificate no more than its key, and signs with whatever key it is given.
"""

from __future__ import annotations

import queue
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import serialization

from tests.tools.bad_certificates import Made
from tests.tools.serving import accepting

with warnings.catch_warnings():
    # It still brings a mixin for asyncore along, which nobody asks for here.
    warnings.simplefilter("ignore", DeprecationWarning)
    from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey
    from tlslite.constants import AlertDescription
    from tlslite.errors import TLSAbruptCloseError, TLSError, TLSRemoteAlert
    from tlslite.x509 import X509

_REQUEST = b"GET / HTTP/1.1\r\nhost: origin\r\nconnection: close\r\n\r\n"
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_SECONDS = 60


@dataclass(frozen=True)
class Shown:
    """A chain and the key that signs the handshake."""

    chain: X509CertChain | None
    key: object = None

    @staticmethod
    def of(made: Made | None, key: Made | None = None) -> Shown:
        """A certificate with its own key, or with another's; nothing at all for none."""
        if made is None:
            return Shown(None)
        certificates = [X509() for _ in made.chain()]
        for certificate, der in zip(certificates, made.chain(), strict=True):
            certificate.parseBinary(bytearray(der))
        pem = (key or made).key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Shown(X509CertChain(certificates), parsePEMKey(pem.decode(), private=True))


def request(port: int, shown: Shown, version: tuple[int, int] = (3, 4)) -> tuple[int, str]:
    """What comes of a request as this client: a status line, the alert that ended it, or `closed`.

    The client's port is told with it. The version is as in the protocol: 3.4 is TLS 1.3.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as raw:
        connection, local = TLSConnection(raw), raw.getsockname()[1]
        try:
            connection.handshakeClientCert(shown.chain, shown.key, settings=_settings(version), serverName="localhost")
            connection.write(_REQUEST)
            return local, bytes(connection.read(max=65536, min=1)).partition(b"\r\n")[0].decode() or "closed"
        except (TLSError, OSError) as error:
            return local, said(error)


@dataclass
class Servers:
    """Servers on one port, told apart by the name that is asked for; each tells what came of it, as in `request`."""

    by_name: dict[str, Shown]
    port: int = 0
    #: The name that was asked for, and the outcome: `asked` if a request came.
    outcomes: queue.SimpleQueue[tuple[str, str]] = field(default_factory=queue.SimpleQueue)

    @contextmanager
    def serving(self) -> Iterator[Servers]:
        """Serve for the length of the block."""
        with accepting(self._serve) as self.port:
            yield self

    def _serve(self, raw: socket.socket) -> None:
        raw.settimeout(_SECONDS)
        hello = raw.recv(65536, socket.MSG_PEEK)
        name = next((name for name in self.by_name if name.encode() in hello), "")
        shown = self.by_name.get(name, Shown(None))
        connection = TLSConnection(raw)
        try:
            connection.handshakeServer(
                certChain=shown.chain, privateKey=shown.key, settings=_settings(), alpn=[b"http/1.1"]
            )
            asked = connection.read(max=65536, min=1)
            outcome = "asked" if asked else "closed"
            if asked:
                connection.write(_ANSWER)
        except (TLSError, OSError) as error:
            outcome = said(error)
        self.outcomes.put((name, outcome))


def said(error: Exception) -> str:
    """The alert that an error carries."""
    if isinstance(error, TLSRemoteAlert):
        return str(AlertDescription.toStr(error.description))
    if isinstance(error, TLSAbruptCloseError | OSError):
        return "closed"
    return f"{type(error).__name__}: {error}"


def _settings(version: tuple[int, int] = (3, 4)) -> HandshakeSettings:
    settings = HandshakeSettings()
    settings.minVersion, settings.maxVersion = min((3, 3), version), version
    settings.minKeySize = 512
    settings.keyShares = ["x25519"]
    # What fits a key of 1,024 bits; and no compression of certificates, which nobody has asked for.
    settings.rsaSigHashes = ["sha256"]
    settings.certificate_compression_send = settings.certificate_compression_receive = []
    return settings
