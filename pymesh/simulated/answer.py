"""An HTTP/1.1 answer in octets that came from one of our proxies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first field of this name, in lower case."""
        return next((value for known, value in self.headers if known == name), None)


def read(octets: bytes, method: str, *, is_over: bool) -> Answer | None:
    """The answer to a request of this method; None as long as it is not complete."""
    while True:
        head, found, rest = octets.partition(b"\r\n\r\n")
        if not found:
            return None
        status_line, *lines = head.decode("latin-1").split("\r\n")
        status = int(status_line.split(" ")[1])
        if status >= 200 or status == 101:
            break
        octets = rest
    headers = tuple((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
    fields = dict(headers)
    body: bytes | None
    if method == "HEAD" or status in (101, 204, 304) or (method == "CONNECT" and status < 300):
        body = b""
    elif "chunked" in fields.get("transfer-encoding", ""):
        body = _chunked(rest)
    elif "content-length" in fields:
        length = int(fields["content-length"])
        body = rest[:length] if len(rest) >= length else None
    else:
        body = rest if is_over else None
    return None if body is None else Answer(status, headers, body)


def _chunked(octets: bytes) -> bytes | None:
    body = b""
    while True:
        line, found, octets = octets.partition(b"\r\n")
        if not found:
            return None
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            return body if octets.startswith(b"\r\n") or b"\r\n\r\n" in octets else None
        if len(octets) < size + 2:
            return None
        body, octets = body + octets[:size], octets[size + 2 :]
