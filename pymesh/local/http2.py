"""A small HTTP/2 client on asyncio, and unary gRPC calls on it: what scenarios need, as `pymesh.local.http`.

One request at a time per connection. A connection that was told to go away is opened anew for the next one.
"""

from __future__ import annotations

from collections.abc import Mapping

import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from pymesh.capture.namespace import NetworkNamespace
from pymesh.local.http import MAX_BODY, Answer, Client, Streams, Tls
from pymesh.local.plan import ADDRESS

_PREFIX = 5


class Connection(Client):
    """HTTP/2. Trailers are among an answer's headers."""

    _FAILURES = (*Client._FAILURES, h2.exceptions.ProtocolError)

    def __init__(
        self,
        port: int,
        timeout: float = 15.0,
        tls: Tls | None = None,
        namespace: NetworkNamespace | None = None,
        host: str = ADDRESS,
    ) -> None:
        super().__init__(port, timeout, tls, namespace, host)
        if tls is not None:
            tls.context.set_alpn_protocols(["h2"])
        self._h2 = h2.connection.H2Connection()
        self._leaving = False

    async def _open(self) -> Streams:
        if self._streams is None:
            self._leaving = False
            self._h2 = h2.connection.H2Connection()
            self._h2.initiate_connection()
            self._h2.increment_flow_control_window(MAX_BODY)
        return await super()._open()

    async def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        reader, writer = await self._open()
        fields = {name.lower(): value for name, value in headers.items()}
        authority = fields.pop("host", f"{ADDRESS}:{self._port}")
        scheme = "http" if self._tls is None else "https"
        head = [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path), *fields.items()]
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, head, end_stream=not body)
        answer: dict[str, str] = {}
        cookies: list[str] = []
        said = bytearray()
        left = memoryview(body)
        while True:
            while left and (room := self._h2.local_flow_control_window(stream)) > 0:
                size = min(room, self._h2.max_outbound_frame_size, len(left))
                self._h2.send_data(stream, bytes(left[:size]), end_stream=size == len(left))
                left = left[size:]
            writer.write(self._h2.data_to_send())
            await writer.drain()
            read = await reader.read(1 << 16)
            if not read:
                raise ConnectionError("the connection was closed before the answer was complete")
            for event in self._h2.receive_data(read):
                match event:
                    case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                        for name, value in event.headers:
                            answer[name.decode("latin-1")] = value.decode("latin-1")
                            if name == b"set-cookie":
                                cookies.append(value.decode("latin-1"))
                    case h2.events.DataReceived():
                        said += event.data
                        self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
                        if len(said) > MAX_BODY:
                            raise ValueError("the body is too long")
                    case h2.events.StreamEnded():
                        status = int(answer.pop(":status", "0"))
                        writer.write(self._h2.data_to_send())
                        if self._leaving:
                            await self.close()
                        return Answer(status, answer, bytes(said), tuple(cookies))
                    case h2.events.StreamReset():
                        raise ConnectionError(f"the stream was reset: {_code(event.error_code)}")
                    case h2.events.ConnectionTerminated():
                        self._leaving = True


class Calls(Connection):
    """Unary calls of gRPC: the body is a message, before and after; how it ended is `grpc-status` of the answer."""

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Call the method that `path` names."""
        fields = {"content-type": "application/grpc", "te": "trailers", **(headers or {})}
        answer = await super().request("POST", path, fields, b"\0" + len(body).to_bytes(4) + body)
        return Answer(answer.status, answer.headers, answer.body[_PREFIX:], answer.cookies)


def _code(number: int | None) -> str:
    try:
        return h2.errors.ErrorCodes(number or 0).name
    except ValueError:
        return str(number)
