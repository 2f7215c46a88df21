"""An HTTP/1.1 answer in octets that came from one of our proxies."""

from __future__ import annotations

from pymesh.simulated.http1 import read_body, read_head
from pymesh.simulated.messages import Answered


def read(octets: bytes, method: str, *, is_over: bool) -> Answered | None:
    """The final answer to a request of this method; None as long as it is not complete."""
    while True:
        found = read_head(octets)
        if found is None:
            return None
        line, fields, rest = found
        status = int(line.split(" ")[1])
        if status >= 200 or status == 101:
            break
        octets = rest
    if method == "HEAD" or status in (101, 204, 304) or (method == "CONNECT" and status < 300):
        return Answered(status, fields)
    if "content-length" not in fields and "chunked" not in (fields.get("transfer-encoding") or ""):
        return Answered(status, fields, rest) if is_over else None
    body = read_body(fields, rest)
    if body is None:
        return None
    content, trailers, _ = body
    return Answered(status, fields, content, trailers)
