"""HTTP/2 vectors: lists of frames as they stand, also those that a library refuses to make.

    {get = FIELDS}           HEADERS of a good GET with these fields behind, and the end of the stream
    {post = FIELDS}          the same of a POST, without the end
    {headers = FIELDS}       HEADERS with just these
    {trailers = FIELDS}      HEADERS with just these, and the end
    {data = "text"}          DATA
    {type = 9, payload = "hex"}   a frame of a kind, with the flags `bits`
    {raw = "hex"}            anything, frame header included

FIELDS is a list of `"name: value"`. `end`, `stream` and `pad` change a frame; `without` takes fields of a good head
away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: The stream of the marked request.
MARKED = 2_000_001
_ERRORS = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
_LARGEST = 16_384
# Frame types and flags (RFC 9113, section 6).
_DATA, _HEADERS, _SETTINGS, _CONTINUATION = 0, 1, 4, 9
_END_STREAM, _END_HEADERS, _PADDED = 1, 4, 8

Spec = Mapping[str, Any]
Pairs = list[tuple[bytes, bytes]]


def error_name(code: int) -> str:
    """The name of RFC 9113, section 7."""
    return _ERRORS[code]


def octets(specs: Sequence[Spec]) -> bytes:
    """The connection's preface, the frames, and the marked request behind them."""
    encoder = hpack.Encoder()
    frames = [one(spec, encoder) for spec in specs]
    marked = encoder.encode(_good("GET", [":path: /marker", ":authority: marker.test"]), huffman=False)
    return b"".join([PREFACE, frame(_SETTINGS, 0, 0, b""), *frames, _headers(MARKED, marked, _END_STREAM)])


def frame(kind: int, bits: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, bits]) + stream.to_bytes(4, "big") + payload


def one(spec: Spec, encoder: hpack.Encoder) -> bytes:
    """What a vector says of one frame."""
    stream = spec.get("stream", 1)
    if "raw" in spec:
        return bytes.fromhex(spec["raw"])
    if "type" in spec:
        return frame(spec["type"], spec.get("bits", 0), stream, bytes.fromhex(spec.get("payload", "")))
    if "data" in spec:
        data, bits = spec["data"].encode("latin-1"), _END_STREAM if spec.get("end", False) else 0
        if "pad" in spec:
            data, bits = bytes([spec["pad"]]) + data + bytes(spec["pad"]), bits | _PADDED
        return frame(_DATA, bits, stream, data)
    (kind,) = {"get", "post", "headers", "trailers"} & set(spec)
    if kind in ("get", "post"):
        fields = _good(kind.upper(), spec[kind], spec.get("without", ()))
    else:
        fields = [_pair(line) for line in spec[kind]]
    ends = spec.get("end", kind in ("get", "trailers"))
    return _headers(stream, encoder.encode(fields, huffman=False), _END_STREAM if ends else 0)


def _good(method: str, more: Sequence[str], without: Sequence[str] = ()) -> Pairs:
    """A good head; pseudo-headers among `more` replace its own."""
    given = [_pair(line) for line in more]
    gone = {name for name, _ in given if name.startswith(b":")} | {name.encode() for name in without}
    good = [(b":method", method.encode()), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a.test")]
    return [*(field for field in good if field[0] not in gone), *given]


def _pair(line: str) -> tuple[bytes, bytes]:
    name, separator, value = line.partition(": ")
    assert separator, f"{line!r} is no field"
    return name.encode("latin-1"), value.encode("latin-1")


def _headers(stream: int, block: bytes, bits: int) -> bytes:
    """HEADERS, and CONTINUATION where the block is longer than a frame may be."""
    pieces = [block[at : at + _LARGEST] for at in range(0, len(block), _LARGEST)] or [b""]
    out = b""
    for number, piece in enumerate(pieces):
        kind, own = (_CONTINUATION, 0) if number else (_HEADERS, bits)
        out += frame(kind, own | (_END_HEADERS if number == len(pieces) - 1 else 0), stream, piece)
    return out
