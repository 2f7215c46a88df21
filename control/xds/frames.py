"""The frames that an open discovery stream consists of, read without the whole of h2.

For each configuration that a proxy is sent it sends a PING, and an acknowledgement in one DATA frame; of both, and of
WINDOW_UPDATE, hundreds come at once. They change nothing but windows, so they are read here, with h2's own counts of
those. Every other frame goes to h2, and so does each of these that is not the usual thing: one with flags, for a stream
that is not open, against a window. h2 then refuses it as it would have, since nothing was counted before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from h2.connection import H2Connection
from h2.stream import H2Stream, StreamState

#: Of every frame (RFC 9113, 4.1): length, type, flags, stream.
HEAD: Final = 9
_DATA, _HEADERS, _PING, _WINDOW_UPDATE, _CONTINUATION = 0x0, 0x1, 0x6, 0x8, 0x9
_END_HEADERS: Final = 0x4
#: What a client's octets begin with (RFC 9113, 3.4).
_PREFACE: Final = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
_PING_ACK: Final = b"\0\0\x08\x06\x01\0\0\0\0"
_LARGEST_WINDOW: Final = 2**31 - 1


class Frames:
    """The octets of one connection, cut into frames."""

    def __init__(self, h2: H2Connection, streams: dict[int, Any], write: Callable[[bytes], None]) -> None:
        """``streams`` are grpclib's, by number."""
        self._h2 = h2
        self._streams = streams
        self._write = write
        self._preface_left = _PREFACE
        #: The beginning of a frame of which the rest has not come.
        self._begun = b""
        #: Between HEADERS and the last of its CONTINUATIONs no other frame may come.
        self._in_headers = False

    def take(self, data: bytes, others: Callable[[bytes], bool]) -> None:
        """Read what has come; ``others`` is given what is for h2, and tells whether the connection is still open."""
        if self._preface_left:
            preface, data = data[: self._preface_left], data[self._preface_left :]
            self._preface_left -= len(preface)
            if not others(preface):
                return
        if self._begun:
            data = self._begun + data
        first = at = 0  # of those that were not read yet, of those that were not looked at yet
        while len(data) - at >= HEAD:
            length = int.from_bytes(data[at : at + 3], "big")
            if length > self._h2.max_inbound_frame_size:
                at = len(data)  # h2 refuses it before it has come whole
                break
            after = at + HEAD + length
            if after > len(data):
                break
            kind, flags = data[at + 3], data[at + 4]
            if kind in (_HEADERS, _CONTINUATION):
                self._in_headers = not flags & _END_HEADERS
            elif flags == 0 and kind in (_DATA, _PING, _WINDOW_UPDATE) and not self._in_headers:
                if first < at and not others(data[first:at]):
                    return
                first = at
                if self._is_usual(kind, int.from_bytes(data[at + 5 : at + 9], "big"), data[at + HEAD : after]):
                    first = after
            at = after
        self._begun = data[at:]
        if first < at:
            others(data[first:at])

    def _is_usual(self, kind: int, number: int, payload: bytes) -> bool:
        """Whether it is one that is read here; then it has been."""
        if kind == _PING:
            if number or len(payload) != 8:
                return False
            self._write(_PING_ACK + payload)
            return True
        if kind == _WINDOW_UPDATE:
            return len(payload) == 4 and self._opens_window(number, int.from_bytes(payload, "big") & _LARGEST_WINDOW)
        stream, counted = self._streams.get(number), self._h2.streams.get(number)
        return stream is not None and counted is not None and self._is_data(stream, counted, payload)

    def _opens_window(self, number: int, size: int) -> bool:
        window: Any = self._h2.streams.get(number) if number else self._h2
        if window is None or not size or window.outbound_flow_control_window + size > _LARGEST_WINDOW:
            return False
        if number and not window.open:
            return False
        window.outbound_flow_control_window += size
        for stream in [self._streams.get(number)] if number else self._streams.values():
            if stream is not None:
                stream.window_updated.set()
        return True

    def _is_data(self, stream: Any, counted: H2Stream, payload: bytes) -> bool:
        size = len(payload)
        if counted.state_machine.state is not StreamState.OPEN or counted._expected_content_length is not None:
            return False
        both, its = self._h2._inbound_flow_control_window_manager, counted._inbound_window_manager
        if size > both.current_window_size or size > its.current_window_size:
            return False
        both.window_consumed(size)
        its.window_consumed(size)
        if size:
            stream.buffer.add(payload, size)
        return True
