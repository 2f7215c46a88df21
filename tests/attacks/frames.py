"""An attacker's connection: octets as they stand, and what the proxy says to them."""

from __future__ import annotations

import socket
from collections import Counter
from types import TracebackType

import hpack
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, HeadersFrame, RstStreamFrame, SettingsFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_RST_STREAM, _GOAWAY = 3, 7
_HEADER = 9

Fields = list[tuple[str, str]]


class Ended(Exception):
    """The proxy has closed the connection, or takes no more."""


class Wire:
    """A connection to the proxy. `codes` counts the error codes of GOAWAY and RST_STREAM that came."""

    def __init__(self, port: int, *, deaf: bool = False) -> None:
        self.socket = socket.socket()
        if deaf:
            # So that what is not read waits in the proxy, not in the kernel.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(5)
        self.socket.connect(("127.0.0.1", port))
        self.codes: Counter[str] = Counter()
        self.received = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, octets: bytes, patience: float = 5.0) -> None:
        """Write everything, or raise `Ended`."""
        self.socket.settimeout(patience)
        try:
            self.socket.sendall(octets)
        except OSError as error:
            raise Ended from error

    def drain(self, patience: float = 0.0) -> bytes:
        """Read what has come, or comes in time; raise `Ended` at the end."""
        self.socket.settimeout(patience)
        taken = b""
        try:
            while piece := self.socket.recv(1 << 18):
                taken += piece
                self._look_at(piece)
        except (BlockingIOError, TimeoutError):
            return taken
        except OSError:
            pass
        raise Ended

    def last_words(self) -> None:
        """Read until the proxy has nothing more to say."""
        try:
            while self.drain(1.0):
                pass
        except Ended:
            pass

    def _look_at(self, piece: bytes) -> None:
        self.received += piece
        at = 0
        while len(self.received) >= at + _HEADER:
            length = int.from_bytes(self.received[at : at + 3])
            end = at + _HEADER + length
            if len(self.received) < end:
                break
            kind = self.received[at + 3]
            if kind in (_RST_STREAM, _GOAWAY):
                self.codes[f"{'GOAWAY' if kind == _GOAWAY else 'RST_STREAM'} {self.received[end - 1]}"] += 1
            at = end
        self.received = self.received[at:]


class Http2(Wire):
    """A connection that speaks HTTP/2, after its preface and SETTINGS."""

    def __init__(self, port: int, settings: dict[int, int] | None = None, *, deaf: bool = False) -> None:
        super().__init__(port, deaf=deaf)
        self.encoder = hpack.Encoder()
        self.stream = -1
        self.send(PREFACE + SettingsFrame(0, settings or {}).serialize() + SettingsFrame(0, flags=["ACK"]).serialize())

    def block(self, path: str = "/", method: str = "GET", more: Fields | None = None) -> bytes:
        """A header block, which enters what can be indexed into the table."""
        head = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost"), *(more or [])]
        return self.encoder.encode(head)

    def open(self, block: bytes, *flags: str) -> bytes:
        """HEADERS on the next stream; without flags it is a whole request."""
        self.stream += 2
        return headers(self.stream, block, *(flags or ("END_HEADERS", "END_STREAM")))


def headers(stream: int, block: bytes, *flags: str) -> bytes:
    """HEADERS."""
    return HeadersFrame(stream, block, flags=list(flags)).serialize()


def continuation(stream: int, block: bytes) -> bytes:
    """CONTINUATION that does not end its block."""
    return ContinuationFrame(stream, block).serialize()


def data(stream: int, octets: bytes) -> bytes:
    """DATA that does not end its stream."""
    return DataFrame(stream, octets).serialize()


def reset(stream: int) -> bytes:
    """RST_STREAM with CANCEL."""
    return RstStreamFrame(stream, error_code=8).serialize()


def plain(kind: type[Frame], stream: int, payload: bytes) -> bytes:
    """A frame of any kind with this payload, legal or not."""
    return len(payload).to_bytes(3) + bytes([kind.type or 0, 0]) + stream.to_bytes(4) + payload
