"""HTTP/1.1 for both ends of a simulated connection: a server in Python, and what a client writes and reads.

The peer is always one of our proxies, so what comes is well formed; what a proxy of ours must refuse is no matter of
this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pymesh.simulated.messages import Answered, Asked, Fields
from pymesh.simulated.network import Wire

#: Gives the answer to a request, now or later; None ends the connection without one.
Respond = Callable[[Answered | None], None]
Handle = Callable[[Asked, Respond], None]


class Http1Server:
    """The server's end of one connection."""

    def __init__(self, peer: Wire, handle: Handle) -> None:
        self._peer = peer
        self._handle = handle
        self._unread = b""
        self._is_busy = False
        self._is_over = False

    def receive(self, octets: bytes) -> None:
        """Octets of the client."""
        self._unread += octets
        self._go_on()

    def end_of_input(self) -> None:
        """The client has closed."""
        self.close()

    def reset(self) -> None:
        """The connection is lost."""
        self._is_over = True

    def close(self) -> None:
        """End the connection, whatever is under way."""
        if not self._is_over:
            self._is_over = True
            self._peer.close()

    def lose(self) -> None:
        """The server is no more: the client learns that the connection is lost."""
        if not self._is_over:
            self._is_over = True
            self._peer.reset()

    def _go_on(self) -> None:
        while not self._is_busy and not self._is_over:
            whole = read_request(self._unread)
            if whole is None:
                return
            asked, self._unread = whole
            self._is_busy = True

            def respond(answered: Answered | None, method: str = asked.method) -> None:
                self._is_busy = False
                if self._is_over:
                    return
                if answered is None:
                    self.close()
                    return
                self._peer.receive(answer_octets(answered, method))
                self._go_on()

            self._handle(asked, respond)


def request_octets(asked: Asked, pieces: Sequence[bytes] | None = None) -> list[bytes]:
    """A request as it is written: its head, then its body in these pieces; chunked if it has trailers."""
    fields = [("host", asked.authority), *asked.headers.items()]
    body = [asked.body] if pieces is None else list(pieces)
    if asked.trailers:
        fields.append(("transfer-encoding", "chunked"))
    elif asked.body and "content-length" not in asked.headers:
        fields.append(("content-length", str(len(asked.body))))
    head = f"{asked.method} {asked.path} HTTP/1.1\r\n{_lines(fields)}\r\n".encode("latin-1")
    if asked.trailers:
        return [head, *map(_chunk, filter(None, body)), _last_chunk(asked.trailers)]
    return [head, *filter(None, body)]


def answer_octets(answered: Answered, method: str) -> bytes:
    """A response as it is written; chunked if it has trailers."""
    fields = answered.headers.items()
    body = answered.body
    if answered.status in (204, 304):
        body = b""
    elif answered.trailers:
        fields.append(("transfer-encoding", "chunked"))
        body = _chunk(body) + _last_chunk(answered.trailers)
    elif "content-length" not in answered.headers:
        fields.append(("content-length", str(len(body))))
    head = f"HTTP/1.1 {answered.status} Status\r\n{_lines(fields)}\r\n".encode("latin-1")
    return head if method == "HEAD" else head + body


def read_request(octets: bytes) -> tuple[Asked, bytes] | None:
    """The first request in octets and what is behind it; None as long as it is not complete."""
    found = read_head(octets)
    if found is None:
        return None
    line, fields, rest = found
    method, path, _ = line.split(" ")
    body = read_body(fields, rest)
    if body is None:
        return None
    content, trailers, rest = body
    return Asked(method, path, fields.get("host", "") or "", fields, content, trailers), rest


def read_head(octets: bytes) -> tuple[str, Fields, bytes] | None:
    """First line, fields, and what is behind a head."""
    head, found, rest = octets.partition(b"\r\n\r\n")
    if not found:
        return None
    line, *lines = head.decode("latin-1").split("\r\n")
    return line, _fields(lines), rest


def read_body(fields: Fields, rest: bytes) -> tuple[bytes, Fields, bytes] | None:
    """A body that is framed, its trailers, and what is behind it."""
    if "chunked" in (fields.get("transfer-encoding") or ""):
        return _chunked(rest)
    length = int(fields.get("content-length") or 0)
    return (rest[:length], Fields(), rest[length:]) if len(rest) >= length else None


def _chunked(octets: bytes) -> tuple[bytes, Fields, bytes] | None:
    body = b""
    while True:
        line, found, rest = octets.partition(b"\r\n")
        if not found:
            return None
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            if rest.startswith(b"\r\n"):
                return body, Fields(), rest[2:]
            trailers, found, rest = rest.partition(b"\r\n\r\n")
            return (body, _fields(trailers.decode("latin-1").split("\r\n")), rest) if found else None
        if len(rest) < size + 2:
            return None
        body, octets = body + rest[:size], rest[size + 2 :]


def _fields(lines: Sequence[str]) -> Fields:
    return Fields((name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines))


def _lines(fields: Sequence[tuple[str, str]]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in fields)


def _chunk(octets: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(octets), octets) if octets else b""


def _last_chunk(trailers: Fields) -> bytes:
    return f"0\r\n{_lines(trailers.items())}\r\n".encode("latin-1")
