"""A gRPC server on a simulated network, for unary calls whose answer is known at once."""

from __future__ import annotations

from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from h2.exceptions import ProtocolError

from pymesh.simulated.network import End

#: Path and message of a call -> the message that answers it.
Answering = Callable[[str, bytes], bytes]

_PREFIX = 5


class GrpcServer:
    """The server's end of one connection: HTTP/2 without TLS."""

    def __init__(self, peer: End, answer: Answering) -> None:
        self._peer = peer
        self._answer = answer
        self._http2 = H2Connection(H2Configuration(client_side=False))
        self._calls: dict[int, tuple[str, bytearray]] = {}
        self._http2.initiate_connection()
        self._peer.receive(self._http2.data_to_send())

    def receive(self, octets: bytes) -> None:
        """Octets of the client."""
        try:
            events = self._http2.receive_data(octets)
        except ProtocolError:
            events = []
        for event in events:
            if isinstance(event, RequestReceived) and event.stream_id is not None:
                headers = {bytes(name): bytes(value) for name, value in event.headers or ()}
                self._calls[event.stream_id] = headers[b":path"].decode(), bytearray()
            elif isinstance(event, DataReceived) and event.stream_id is not None:
                self._calls[event.stream_id][1].extend(event.data or b"")
                self._http2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            elif isinstance(event, StreamEnded) and event.stream_id is not None:
                self._respond(event.stream_id, *self._calls.pop(event.stream_id))
        self._peer.receive(self._http2.data_to_send())

    def end_of_input(self) -> None:
        """The client has closed."""
        self._peer.end_of_input()

    def reset(self) -> None:
        """The connection is lost."""

    def _respond(self, stream: int, path: str, framed: bytearray) -> None:
        message = self._answer(path, bytes(framed[_PREFIX:]))
        self._http2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        self._http2.send_data(stream, b"\0" + len(message).to_bytes(_PREFIX - 1, "big") + message)
        self._http2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
