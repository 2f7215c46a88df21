"""`grpc.health.v1.Health/Check` on a connection, by hand: one request, whose message has one field."""

from __future__ import annotations

import socket
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.exceptions

_PATH = "/grpc.health.v1.Health/Check"
#: Field 1 of HealthCheckResponse, a varint: SERVING.
_SERVING = b"\x08\x01"
#: Of an answer that has one field.
_LONGEST = 64 * 1024
_STATUSES = {b"": "UNKNOWN", b"\x08\x00": "UNKNOWN", b"\x08\x02": "NOT_SERVING", b"\x08\x03": "SERVICE_UNKNOWN"}


def check(sock: socket.socket, authority: str, service: str, left: Callable[[], float | None]) -> str:
    """What is wrong; empty if the service says that it serves. ``left`` are the seconds that there are still.

    Raises ``OSError``, ``TimeoutError`` among them.
    """
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    headers = [(":method", "POST"), (":scheme", "http"), (":path", _PATH), (":authority", authority)]
    headers += [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "kube-probe")]
    connection.send_headers(1, headers)
    connection.send_data(1, b"\x00" + len(message).to_bytes(4, "big") + message, end_stream=True)
    sock.sendall(connection.data_to_send())
    said: dict[str, str] = {}
    body = b""
    while True:
        sock.settimeout(left())
        received = sock.recv(16384)
        if not received:
            return "the connection was closed before an answer"
        try:
            events = connection.receive_data(received)
        except h2.exceptions.ProtocolError as error:
            return f"the answer is not HTTP/2: {error}"
        for event in events:
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    said |= {str(name): str(value) for name, value in event.headers}
                case h2.events.DataReceived():
                    body += event.data
                    if len(body) > _LONGEST:
                        return f"the answer is longer than {_LONGEST} bytes"
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    return _judged(said, body)
                case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                    return f"the request was reset ({event.error_code})"
                case _:
                    pass
        sock.sendall(connection.data_to_send())


def _judged(said: dict[str, str], body: bytes) -> str:
    if said.get("grpc-status", "0") != "0" or said.get(":status") != "200":
        return f"status {said.get(':status')}, grpc-status {said.get('grpc-status')}: {said.get('grpc-message', '')}"
    answer = body[5:]
    return "" if answer == _SERVING else f"it says {_STATUSES.get(answer, answer.hex())}"


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
