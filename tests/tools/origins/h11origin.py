"""An origin on h11 that says what it understood: a JSON object on a line for each request, and the same as the answer.

Run as a program with the port: `python h11origin.py 8080`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import Any

import h11

_Pairs = list[tuple[bytes, bytes]]


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection until a side ends it or h11 refuses what came."""
    peer = int(writer.get_extra_info("peername")[1])
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    serial = 0
    try:
        while True:
            request = await _event(connection, reader)
            if not isinstance(request, h11.Request):
                return
            serial += 1
            seen = await _read(connection, reader, request) | {"peer": peer, "serial": serial}
            line = json.dumps(seen) + "\n"
            sys.stdout.write(line)
            sys.stdout.flush()
            if not seen["complete"]:
                return
            headers = [("content-type", "application/json"), ("content-length", str(len(line)))]
            writer.write(connection.send(h11.Response(status_code=200, headers=headers)) or b"")
            body = b"" if request.method == b"HEAD" else line.encode()
            writer.write((connection.send(h11.Data(data=body)) or b"") + (connection.send(h11.EndOfMessage()) or b""))
            await writer.drain()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        sys.stdout.write(json.dumps({"error": str(error), "peer": peer}) + "\n")
        sys.stdout.flush()
    except OSError:
        pass  # the other side left
    finally:
        writer.close()


async def _event(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event | type[h11.PAUSED]:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event  # type: ignore[return-value]
        connection.receive_data(await reader.read(65536))


async def _read(connection: h11.Connection, reader: asyncio.StreamReader, request: h11.Request) -> dict[str, Any]:
    digest, length, trailers, complete = hashlib.sha256(), 0, list[Any](), True
    while True:
        try:
            event = await _event(connection, reader)
        except (h11.RemoteProtocolError, OSError):
            complete = False
            break
        if isinstance(event, h11.Data):
            digest.update(event.data)
            length += len(event.data)
        elif isinstance(event, h11.EndOfMessage):
            trailers = _pairs(event.headers)
            break
    fields = _pairs(request.headers)
    return {
        "method": request.method.decode("latin-1"),
        "target": request.target.decode("latin-1"),
        "authority": next((value for name, value in fields if name.lower() == "host"), ""),
        "fields": fields,
        "trailers": trailers,
        "length": length,
        "sha256": digest.hexdigest(),
        "complete": complete,
    }


def _pairs(fields: Any) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


async def main(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.start_server(connected, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
