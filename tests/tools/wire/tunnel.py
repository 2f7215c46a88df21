"""One tunnel as a plain stream of octets, over either version: what a client of CONNECT or an upgrade holds."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.tools.wire.message import Headers


@dataclass
class Http2Tunnel:
    """A stream that asks for a tunnel. Octets sent before the answer are sent nevertheless: that is for tests."""

    sock: socket.socket
    protocol: h2.connection.H2Connection
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    received: bytes = b""
    ended: bool = False
    reset: int | None = None

    def send(self, data: bytes, *, end: bool = False) -> None:
        """Send octets as the windows allow, reading meanwhile."""
        while data:
            room = min(self.protocol.local_flow_control_window(1), self.protocol.max_outbound_frame_size, len(data))
            if room == 0:
                self.read()
                continue
            self.protocol.send_data(1, data[:room])
            self.sock.sendall(self.protocol.data_to_send())
            data = data[room:]
        if end:
            self.protocol.end_stream(1)
            self.sock.sendall(self.protocol.data_to_send())

    def read(self) -> bool:
        """Take what comes next; false at the end of the stream or the connection."""
        if self.ended or self.reset is not None:
            return False
        data = self.sock.recv(256 * 1024)
        if not data:
            return False
        try:
            events = self.protocol.receive_data(data)
        except h2.exceptions.ProtocolError:
            return False  # `h2` takes nothing any more behind a GOAWAY, although streams may go on
        for event in events:
            if isinstance(event, h2.events.ResponseReceived):
                fields = {str(name): str(value) for name, value in event.headers}
                self.status, self.headers = int(fields[":status"]), fields
            elif isinstance(event, h2.events.DataReceived):
                self.received += event.data
                self.protocol.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended = True
            elif isinstance(event, h2.events.StreamReset):
                self.reset = int(event.error_code)
        self.sock.sendall(self.protocol.data_to_send())
        return True

    def answer(self) -> int:
        """Wait for the status; 0 if there is none."""
        while not self.status and self.read():
            pass
        return self.status

    def read_to_end(self) -> bytes:
        """Everything until the stream ends."""
        while self.read():
            pass
        return self.received


@contextlib.contextmanager
def http2_tunnel(
    port: int, authority: str, protocol: str = "", path: str = "/", headers: Headers = ()
) -> Iterator[Http2Tunnel]:
    """Ask for a tunnel: with `protocol` by extended CONNECT (RFC 8441), else by CONNECT."""
    config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
    connection = h2.connection.H2Connection(config)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        connection.initiate_connection()
        sock.sendall(connection.data_to_send())
        while not connection.remote_settings.enable_connect_protocol and protocol:
            connection.receive_data(sock.recv(65536))
            sock.sendall(connection.data_to_send())
        extended = [(":protocol", protocol), (":scheme", "http"), (":path", path)] if protocol else []
        connection.send_headers(1, [(":method", "CONNECT"), *extended, (":authority", authority), *headers])
        sock.sendall(connection.data_to_send())
        yield Http2Tunnel(sock, connection)
