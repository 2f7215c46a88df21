"""Somebody with a certificate of the mesh who is no proxy: knocks at a sidecar, and sees whether he is let in."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

from pymesh.control.identity import private_files
from pymesh.control.identity.client import CertificateClient, Credentials, tls_context

_ASK = b"GET / HTTP/1.1\r\nhost: server\r\n\r\n"
#: Longer than any test runs: whoever is refused is not refused because his certificate has expired.
_LIFETIME_SECONDS = 3600


def obtain(port: int, root: Path, token: str, node: str) -> Credentials:
    """A certificate from the control plane at `port`."""

    async def ask() -> Credentials:
        client = CertificateClient("localhost", port, tls_context(root.read_bytes()))
        found = await client.obtain(token, _LIFETIME_SECONDS, node)
        await asyncio.sleep(0.1)  # the transport closes in the turns after the channel
        return found

    return asyncio.run(ask())


def knock(port: int, credentials: Credentials, folder: Path) -> ssl.SSLSocket:
    """A connection over which one request was answered. Raises `ConnectionError` (`ssl.SSLError` among them) if not."""
    file = folder / "prober.pem"
    private_files.write(file, credentials.key_pem + credentials.chain_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(file)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        connection = context.wrap_socket(plain)
    try:
        connection.sendall(_ASK)
        if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
            raise ConnectionRefusedError("no answer")
    except BaseException:
        connection.close()
        raise
    return connection


def is_let_in(port: int, credentials: Credentials, folder: Path) -> bool:
    """Whether a new connection is answered."""
    try:
        knock(port, credentials, folder).close()
    except OSError:
        return False
    return True


def is_open(connection: ssl.SSLSocket) -> bool:
    """Whether a connection still stands: nothing has come, least of all its end."""
    connection.settimeout(0.001)
    try:
        return bool(connection.recv(65536))
    except TimeoutError:
        return True
    except OSError:
        return False
