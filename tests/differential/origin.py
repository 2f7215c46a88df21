"""What stands behind a proxy: answers each request with what it was, and does what the request wishes.

`x-want-status` is the answer's status, for the first `x-want-failures` attempts of a case if that is there;
`x-want-reset` closes the connection without an answer, `x-want-delay` waits, `x-want-grpc-status` is sent back.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping

#: Not part of what is compared.
_OURS = ("x-case",)


class Origin(asyncio.Protocol):
    """One connection of an endpoint called `name`.

    `seen` counts attempts by name and case, `everyone` holds the connections that are open.
    """

    def __init__(self, name: str, seen: Counter[str], everyone: set[Origin]) -> None:
        self._name = name
        self._seen = seen
        self._everyone = everyone
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._everyone.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._everyone.discard(self)

    def close(self) -> None:
        """End the connection."""
        assert self._transport is not None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
            headers = dict(fields)
            taken = self._body(headers, end + 4)
            if taken is None:
                return
            body, self._buffer = taken
            self._answer(first, fields, headers, body)

    def _body(self, headers: Mapping[str, str], begin: int) -> tuple[bytes, bytes] | None:
        """The body and what follows it; None while it is not whole."""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                line = self._buffer.find(b"\r\n", begin)
                if line < 0:
                    return None
                size = int(self._buffer[begin:line], 16)
                if len(self._buffer) < line + 2 + size + 2:
                    return None
                if size == 0:
                    return body, self._buffer[line + 4 :]
                body += self._buffer[line + 2 : line + 2 + size]
                begin = line + 2 + size + 2
        length = int(headers.get("content-length", 0))
        if len(self._buffer) < begin + length:
            return None
        return self._buffer[begin : begin + length], self._buffer[begin + length :]

    def _answer(self, first: str, fields: list[tuple[str, str]], headers: Mapping[str, str], body: bytes) -> None:
        method, target, _ = first.split(" ")
        case = f"{self._name} {headers.get('x-case', '')}"
        self._seen[case] += 1
        assert self._transport is not None
        if "x-want-reset" in headers:
            return self._transport.abort()
        status = int(headers.get("x-want-status", 200))
        if self._seen[case] > int(headers.get("x-want-failures", 1 << 30)):
            status = 200
        shown = {
            "origin": self._name,
            "request": f"{method} {target}",
            "headers": sorted(f"{name}: {value}" for name, value in fields if name not in _OURS),
            "body": len(body),
        }
        said = json.dumps(shown).encode()
        head = [f"HTTP/1.1 {status} X", f"x-origin: {self._name}", "x-origin-tag: 1", "x-user: of-the-origin"]
        if "x-want-grpc-status" in headers:
            head += [f"grpc-status: {headers['x-want-grpc-status']}", "content-type: application/grpc"]
        head += [f"content-length: {len(said)}", "", ""]
        answer = "\r\n".join(head).encode() + (b"" if method == "HEAD" else said)
        if "x-want-delay" in headers:
            transport = self._transport
            asyncio.get_running_loop().call_later(float(headers["x-want-delay"]), transport.write, answer)
        else:
            self._transport.write(answer)
        return None
