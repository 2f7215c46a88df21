"""Finding a P-256 key in the memory of a process and in whatever else there is."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

#: Thirty-two octets of chance have no word that starts like a pointer, a count or a text.
_WORD = 8
_LENGTH = 32


def find_key(pid: int, public: ec.EllipticCurvePublicKey) -> bytes:
    """The private scalar, big-endian. The library keeps it as words, hence little-endian and aligned."""
    for content in _writable(pid):
        for at in range(0, len(content) - _LENGTH, _WORD):
            window = content[at : at + _LENGTH]
            if _looks_random(window) and _fits(window, public):
                return window[::-1]
    raise AssertionError("the key is not even in the proxy: this search no longer sees anything")


def holds(content: bytes, key: bytes) -> bool:
    """Whether the key is there: as octets either way round, in hexadecimal, or in base64 at any alignment."""
    if key in content or key[::-1] in content or key.hex().encode() in content.lower():
        return True
    unwrapped = content.replace(b"\\n", b"").translate(None, b"\r\n\t ")
    # Of each alignment the part that does not depend on what stands before and after.
    forms = (base64.b64encode(bytes(shift) + key)[(shift * 8 + 5) // 6 : -4] for shift in range(3))
    return any(form in unwrapped for form in forms)


def _writable(pid: int) -> Iterator[bytes]:
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            region, mode, *rest = line.split()
            low, high = (int(end, 16) for end in region.split("-"))
            if mode.startswith("rw") and not rest[-1].startswith("[v"):
                memory.seek(low)
                yield memory.read(high - low)


def _looks_random(window: bytes) -> bool:
    return (
        len(set(window)) > 20
        and sum(octet > 127 for octet in window) > 6
        and all(window[at : at + 2] != b"\0\0" for at in (6, 14, 22, 30))
    )


def _fits(window: bytes, public: ec.EllipticCurvePublicKey) -> bool:
    try:
        made = ec.derive_private_key(int.from_bytes(window, "little"), ec.SECP256R1())
    except ValueError:
        return False
    return made.public_key() == public
