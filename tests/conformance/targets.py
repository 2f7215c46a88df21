"""Request targets as an attacker writes them, and ways to send very many.

Paths and authorities are put together from pieces that some server somewhere reads as something else than they look
like: encodings once and twice, overlong UTF-8, dots, slashes, parameters, ports, trailing dots, case.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.conformance.corpus.frames import PREFACE, frame
from tests.tools.wire.http1 import close

# Separated by spaces; what is meant to be seen more often stands more often.
_PIECES = (
    "a a b admin admin admin Admin ADMIN public public t x.key x.KEY .key ~ . .. ... %2e %2E%2e .%2e ..;x .; ;x "
    ";a=b %3b %61dmin adm%69n admi%6E %61%64%6d%69%6e %2561dmin %252e%252e %252f %25%32%66 %7e %25 %252e % %zz "
    "%%32e %u0061 "
    "%2f %2F %2f.. %5c %5C..%5c \\ \\..\\ %00 %0a %0d%0a %09 %20 %23 %3f %3a %40 %26 + "
    "%c0%af %c0%ae%c0%ae %e0%80%af %f0%80%80%af %c1%9c %ef%bc%8f %c3%a4 %c3 %ff "
    "< > { } | ^ ` \" ' ( ! $ & * , : = @ #x"
)
_JOINTS = "/ / / / / / / // /// /./ /../ /%2e/ /%2e%2e/ /..;/ /.;/"
_STARTS = ["/", "/", "/", "/", "/admin", "/admin", "/admin/", "/public/", "/public/../", "/a/", "//", "/./", ""]
_QUERIES = ["", "", "", "", "", "?", "?a=b", "?/../x", "?//", "?a?b", "?%2f", "?/admin", "?<"]
_HOSTS = (
    "a.test a.test a.test a.test x.b.test x.b.test private.test private.test PRIVATE.test Private.Test private.test. "
    "private.test: private.test:80 private.test:8080 private.test.:80 PRIVATE.TEST.: private.test.. private.test:080 "
    "xn--bcher-kva.test A.TEST a.test. a.test:80 a.test:8080 a.test: a.test.:80 X.B.TEST:81 x.y.b.test b.test xb.test "
    "[::1] [::1]:80 [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] 127.0.0.1 127.1 0x7f000001 a..test a.test,b.test %61.test "
    "%70rivate.test private%2etest a_b . a.test:80:80 [::1 u@a.test user:pw@private.test a.test@private.test "
    "private.test@a.test a.test:99999 a.test/x a.test\\x a.test:b a.test?private.test a.test#private.test "
    "b\u00fccher.test"
)


@dataclass(frozen=True)
class Target:
    """A path with its query, and an authority; `absolute`: HTTP/1.1 says both in the request line."""

    path: str
    host: str
    absolute: bool


def generated(count: int, seed: int) -> list[Target]:
    """So many, the same in every run."""
    rng = random.Random(seed)
    pieces, joints, hosts = _PIECES.split(), [*_JOINTS.split(), "", ""], _HOSTS.split(" ")
    made = [Target("/admin", host, absolute) for host in hosts for absolute in (False, True)]
    while len(made) < count:
        path = rng.choice(_STARTS)
        for _ in range(rng.randrange(5)):
            path += rng.choice(pieces) + rng.choice(joints)
        made.append(Target(path + rng.choice(_QUERIES), rng.choice(hosts), rng.random() < 0.1))
    return made[:count]


async def over_http1(port: int, numbers: Sequence[int], targets: Sequence[Target]) -> None:
    """Many at once; what stands behind a refused one has not been read, and is sent again."""
    while numbers:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            one = targets[number]
            line = f"http://{one.host}{one.path}" if one.absolute else one.path
            last = "Connection: close\r\n" if number == numbers[-1] else ""
            writer.write(f"GET {line} HTTP/1.1\r\nHost: {one.host}\r\nX-N: 1-{number}\r\n{last}\r\n".encode())
        received = await reader.read(-1)
        await close(writer)
        answered = len(re.findall(rb"HTTP/1\.1 \d\d\d ", received))
        assert answered, received
        numbers = numbers[answered:]


async def over_http2(port: int, numbers: Sequence[int], targets: Sequence[Target]) -> None:
    """All on one connection, each on a stream of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PREFACE + frame(_SETTINGS, 0, 0, b""))
    open_ = set()
    for stream, number in enumerate(numbers):
        one = targets[number]
        block = b"\x82\x86" + b"".join(  # :method GET, :scheme http
            map(_literal, [":path", ":authority", "x-n"], [one.path, one.host, f"2-{number}"])
        )
        open_.add(2 * stream + 1)
        writer.write(frame(_HEADERS, _END_STREAM | _END_HEADERS, 2 * stream + 1, block))
    while open_:
        head = await reader.readexactly(9)
        kind, flags, stream_id = head[3], head[4], int.from_bytes(head[5:], "big")
        await reader.readexactly(int.from_bytes(head[:3], "big"))
        assert kind != _GOAWAY
        if kind == _RST_STREAM or (kind in (_HEADERS, _DATA) and flags & _END_STREAM):
            open_.discard(stream_id)
    await close(writer)


_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS = 1, 4


def _literal(name: str, value: str) -> bytes:
    """A field that is not indexed, as it is (RFC 7541, section 6.2.2)."""
    return b"\0" + _string(name.encode()) + _string(value.encode())


def _string(octets: bytes) -> bytes:
    length = len(octets)
    if length < 127:
        return bytes([length]) + octets
    assert length < 255
    return bytes([127, length - 127]) + octets
