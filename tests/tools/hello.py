"""The first octets of clients: TLS hellos, whole or cut up, and what else may come."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

HTTP1 = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
HTTP10 = b"GET / HTTP/1.0\r\n\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
RAW = b"\0\1\2\3 no protocol that anybody knows\r\n"


def client_hello(server_name: str | None = None, alpn: Sequence[str] = ()) -> bytes:
    """What Python's TLS client says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=server_name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same handshake message in records of at most `size` octets."""
    pieces = [hello[start : start + size] for start in range(5, len(hello), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2) + piece for piece in pieces)


def padded(hello: bytes, length: int) -> bytes:
    """The same hello, grown by an extension that nobody knows to a message of `length` octets."""
    body = hello[9:]
    at = 34 + 1 + body[34]
    at += 2 + int.from_bytes(body[at : at + 2])
    at += 1 + body[at]
    extensions = body[at + 2 :]
    padding = length - 4 - len(body) - 4
    extensions += (0x4A4B).to_bytes(2) + padding.to_bytes(2) + bytes(padding)
    body = body[:at] + len(extensions).to_bytes(2) + extensions
    message = hello[5:6] + len(body).to_bytes(3) + body
    return in_records(hello[:5] + message, 1 << 14)
