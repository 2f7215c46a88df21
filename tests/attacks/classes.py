"""The classes of attack: what each does on one connection, and what the proxy must say to it.

An attack runs until `Ended` or until `going()` is false. Where nothing that it does is wrong in itself, no error code
is due: then it is enough that memory is bounded and others are served.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hyperframe.frame import PingFrame, PriorityFrame, SettingsFrame, WindowUpdateFrame

from tests.attacks.frames import Ended, Http2, Wire, continuation, data, plain, reset

Going = Callable[[], bool]
Act = Callable[[int, Going], Wire]

CALM = "GOAWAY 11"  # ENHANCE_YOUR_CALM
_INITIAL_WINDOW = 4
_HTTP = "http.ingress."
_HEAD = b"GET / HTTP/1.1\r\nhost: localhost\r\n"
_UPLOAD = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"


@dataclass(frozen=True)
class Attack:
    """One class. `counter` rises when the proxy has noticed; `due` is the error code that the attacker must be told."""

    name: str
    act: Act
    counter: str
    due: str | None = None
    #: Connections of one attacker at a time.
    connections: int = 1


def _flood(name: str, counter: str, piece: Callable[[Http2], bytes], *, deaf: bool = False) -> Attack:
    """Send `piece` again and again; who is `deaf` reads nothing before the end."""

    def act(port: int, going: Going) -> Wire:
        wire = Http2(port, deaf=deaf)
        try:
            while going():
                wire.send(piece(wire), patience=0.5)
                if not deaf:
                    wire.drain()
        except Ended:
            pass
        wire.last_words()
        return wire

    return Attack(name, act, counter, CALM)


def _rapid_reset(wire: Http2) -> bytes:
    block = wire.block("/", more=[("x-want-bytes", "10")])
    return b"".join(wire.open(block) + reset(wire.stream) for _ in range(100))


def _made_you_reset(wire: Http2) -> bytes:
    block = wire.block()
    zero = plain(WindowUpdateFrame, 0, bytes(4))
    return b"".join(wire.open(block) + zero[:5] + wire.stream.to_bytes(4) + zero[9:] for _ in range(100))


def _continuation(wire: Http2) -> bytes:
    if wire.stream < 0:
        return wire.open(wire.block(), "END_STREAM")
    return continuation(wire.stream, b"\x00\x01x\x01y") * 100


def _priority(wire: Http2) -> bytes:
    return plain(PriorityFrame, 1, (3).to_bytes(4) + b"\x10") * 200


def _window_update(wire: Http2) -> bytes:
    return plain(WindowUpdateFrame, 0, (1).to_bytes(4)) * 200


def _empty_data(wire: Http2) -> bytes:
    return wire.open(wire.block("/", "POST"), "END_HEADERS") + data(wire.stream, b"") * 50


def _empty_names(wire: Http2) -> bytes:
    # A literal without indexing that has neither name nor value.
    block = wire.block() + b"\x00\x00\x00" * 50
    return b"".join(wire.open(block) for _ in range(50))


def _requests_unread(wire: Http2) -> bytes:
    block = wire.block("/small")
    return b"".join(wire.open(block) for _ in range(50))


def _refused(name: str, counter: str, bomb: Callable[[Http2], bytes], due: str | None = None) -> Attack:
    """Heads that are too large: answered 431 or refused, one by one, by a connection that lives."""

    def act(port: int, going: Going) -> Wire:
        wire = Http2(port)
        try:
            while going() and wire.stream < 2000:
                wire.send(bomb(wire))
                wire.drain(0.01)
        except Ended:
            pass
        return wire

    return Attack(name, act, counter, due)


def _hpack_bomb(wire: Http2) -> bytes:
    # One field of 3,900 octets enters the table; then one octet stands for it.
    block = wire.block(more=[("x-bomb", "v" * 3900)]) if wire.stream < 0 else wire.block()
    return wire.open(block + b"\xbe" * 8000)


def _cookie_crumbs(wire: Http2) -> bytes:
    return wire.open(wire.block(more=[("cookie", "a=1")] * 150))


def _tiny_fields(port: int, going: Going) -> Wire:
    """Many small indexed fields that stay in memory, since the answers find no window ("HTTP/2 bomb")."""
    wire = Http2(port, {_INITIAL_WINDOW: 0})
    first = wire.block(more=[("x-bomb", "v" * 550)])
    bomb = wire.block() + b"\xbe" * 90
    try:
        wire.send(wire.open(first))
        for _ in range(400):
            wire.send(wire.open(bomb))
            wire.drain()
        while going():
            wire.drain(0.1)
    except Ended:
        pass
    return wire


def _zero_window(port: int, going: Going) -> Wire:
    """A hundred large answers, none of which may be sent."""
    wire = Http2(port, {_INITIAL_WINDOW: 0})
    block = wire.block("/attacked/", more=[("x-want-bytes", str(1 << 20))])
    try:
        wire.send(b"".join(wire.open(block) for _ in range(100)))
        while going():
            wire.drain(0.1)
        # What the proxy does about it comes after the stream's idle time.
        for _ in range(20):
            if wire.codes:
                break
            wire.drain(0.5)
    except Ended:
        pass
    return wire


def _small_data(port: int, going: Going) -> Wire:
    """A few octets at a time to an origin that reads none."""
    wire = Http2(port)
    try:
        wire.send(wire.open(wire.block("/", "POST", [("x-want-stall", "1")]), "END_HEADERS"))
        # Eight times 32,000 octets stay below the window of a stream, so that nothing but time is against it.
        for _ in range(8):
            wire.send(data(wire.stream, b"x" * 32) * 1000)
            wire.drain()
        while going() and not wire.codes:
            time.sleep(0.02)
            wire.drain()
    except Ended:
        pass
    return wire


def _pipelined_unread(port: int, going: Going) -> Wire:
    """HTTP/1 requests without end from a client that reads no answer."""
    wire = Wire(port, deaf=True)
    request = b"GET /attacked/ HTTP/1.1\r\nhost: localhost\r\nx-want-bytes: 8000000\r\n\r\n"
    try:
        while going():
            wire.send(request * 100, patience=0.5)
    except Ended:
        pass
    # What the proxy does about it comes after the stream's idle time.
    time.sleep(3)
    return wire


def _ask_and_leave(port: int, going: Going) -> Wire:
    """A request that takes for ever, of a client that does not wait for it."""
    wire = Wire(port)
    try:
        wire.send(b"GET /patient/ HTTP/1.1\r\nhost: localhost\r\nx-want-delay: 3600\r\n\r\n")
    except Ended:
        pass
    return wire


def _dribble(first: bytes, piece: bytes) -> Act:
    """Something first, and then the same again and again, whatever is answered."""

    def act(port: int, going: Going) -> Wire:
        wire = Wire(port)
        try:
            wire.send(first)
            while going():
                wire.send(piece)
                wire.drain(0.2)
        except Ended:
            pass
        return wire

    return act


def _slow_head(port: int, going: Going) -> Wire:
    """A header block that does not end, a piece at a time."""
    wire = Http2(port)
    try:
        wire.send(wire.open(wire.block(), "END_STREAM"))
        for _ in range(10):
            wire.drain(0.3)
            wire.send(continuation(wire.stream, b"\x00\x01x\x01y"))
    except Ended:
        pass
    wire.last_words()
    return wire


def _ask_hostile(path: str) -> Act:
    """The client is harmless; the endpoint behind the path is not."""
    return _dribble(b"", f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())


ATTACKS = [
    _flood("rapid reset", f"{_HTTP}downstream_rq_too_many_premature_resets", _rapid_reset),
    _flood("made you reset", f"{_HTTP}downstream_rq_too_many_premature_resets", _made_you_reset),
    _flood("CONTINUATION", "http2.inbound_continuation_frames_flood", _continuation),
    _flood(
        "PING unread", "http2.outbound_control_flood", lambda _: PingFrame(0, b"12345678").serialize() * 500, deaf=True
    ),
    _flood("SETTINGS unread", "http2.outbound_control_flood", lambda _: SettingsFrame(0).serialize() * 500, deaf=True),
    _flood("requests unread", f"{_HTTP}downstream_rq_too_many_premature_resets", _requests_unread, deaf=True),
    _flood("PRIORITY", "http2.inbound_priority_frames_flood", _priority),
    _flood("WINDOW_UPDATE", "http2.inbound_window_update_frames_flood", _window_update),
    _flood("empty DATA", "http2.inbound_empty_frames_flood", _empty_data),
    _flood("empty field names", "http2.rx_messaging_error", _empty_names),
    _refused("HPACK bomb", "http2.header_overflow", _hpack_bomb),
    _refused("cookie crumbs", "http2.header_overflow", _cookie_crumbs),
    Attack("tiny fields, zero window", _tiny_fields, "http2.header_memory_overflow", "RST_STREAM 7"),
    Attack("zero window", _zero_window, f"{_HTTP}downstream_rq_idle_timeout", "RST_STREAM 2"),
    Attack("small DATA", _small_data, f"{_HTTP}downstream_rq_timeout", "RST_STREAM 2"),
    Attack("pipelined unread", _pipelined_unread, f"{_HTTP}downstream_rq_idle_timeout"),
    Attack("slow head, HTTP/1", _dribble(_HEAD, b"x-a: b\r\n"), f"{_HTTP}downstream_rq_header_timeout", connections=50),
    Attack("slow head, HTTP/2", _slow_head, f"{_HTTP}downstream_rq_header_timeout", CALM, connections=20),
    Attack("ask and leave", _ask_and_leave, f"{_HTTP}downstream_cx_destroy_remote_active_rq"),
    Attack("slow body", _dribble(_UPLOAD, b"x"), f"{_HTTP}downstream_rq_timeout", connections=50),
    Attack("endpoint: PING", _ask_hostile("/hostile/ping"), "cluster.hostile.http2.outbound_control_flood"),
    Attack(
        "endpoint: interim answers", _ask_hostile("/hostile/interim"), "cluster.hostile.http2.too_many_header_frames"
    ),
    Attack("endpoint: head too large", _ask_hostile("/hostile/head"), "cluster.hostile.http2.header_overflow"),
    Attack("endpoint: empty DATA", _ask_hostile("/hostile/empty"), "cluster.hostile.http2.inbound_empty_frames_flood"),
]
