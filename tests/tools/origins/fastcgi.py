"""The application behind nginx and Apache: it says what they told it of each request, in the shape of all origins.

FastCGI, because either server then parses the request, takes its framing off and names its parts, as it does for the
applications of its users; nothing of the client's octets gets here but through the server's own understanding.
Run as a program with the port: `python fastcgi.py 8080`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import sys

# Record types and the only role (FastCGI 1.0, section 8).
_BEGIN, _END, _PARAMS, _STDIN, _STDOUT = 1, 3, 4, 5, 6
_KEEP_CONNECTION = 1


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection, which come one after another."""
    params, body, keep = b"", b"", False
    try:
        while True:
            kind, number, length, padding = struct.unpack("!xBHHBx", await reader.readexactly(8))
            content = (await reader.readexactly(length + padding))[:length]
            if kind == _BEGIN:
                params, body, keep = b"", b"", bool(content[2] & _KEEP_CONNECTION)
            elif kind == _PARAMS:
                params += content
            elif kind == _STDIN and content:
                body += content
            elif kind == _STDIN:
                answer = _answer(_pairs(params), body)
                pieces = [answer[at : at + 65_535] for at in range(0, len(answer), 65_535)]
                for piece in [*pieces, b""]:
                    writer.write(struct.pack("!BBHHBx", 1, _STDOUT, number, len(piece), 0) + piece)
                writer.write(struct.pack("!BBHHBxI4x", 1, _END, number, 8, 0, 0))
                await writer.drain()
                if not keep:
                    break
    except (asyncio.IncompleteReadError, OSError):
        pass  # the server gave the request up, or the connection
    writer.close()


def _pairs(octets: bytes) -> dict[str, str]:
    found, at = {}, 0

    def length() -> int:
        nonlocal at
        wide = octets[at] >> 7
        size = struct.unpack_from("!I", octets, at)[0] & 0x7FFF_FFFF if wide else octets[at]
        at += 4 if wide else 1
        return int(size)

    while at < len(octets):
        name, value = length(), length()
        text = octets[at : at + name + value].decode("latin-1")
        found[text[:name]] = text[name:]
        at += name + value
    return found


def _answer(variables: dict[str, str], body: bytes) -> bytes:
    line = json.dumps(_seen(variables, body)) + "\n"
    sys.stdout.write(line)
    sys.stdout.flush()
    head = f"Status: 200 OK\r\nX-App: 1\r\nContent-Type: application/json\r\nContent-Length: {len(line)}\r\n\r\n"
    return (head + ("" if variables["REQUEST_METHOD"] == "HEAD" else line)).encode()


def _seen(variables: dict[str, str], body: bytes) -> dict[str, object]:
    fields = [
        (name.removeprefix("HTTP_").lower().replace("_", "-"), value)
        for name, value in variables.items()
        if name.startswith("HTTP_")
    ]
    if "CONTENT_TYPE" in variables and "HTTP_CONTENT_TYPE" not in variables:
        fields.append(("content-type", variables["CONTENT_TYPE"]))
    return {
        "method": variables["REQUEST_METHOD"],
        "target": variables["REQUEST_URI"],
        "authority": variables.get("HTTP_HOST", ""),
        "fields": fields,
        "trailers": [],
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "complete": True,
        "peer": int(variables["REMOTE_PORT"]),
    }


async def main(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.start_server(connected, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
