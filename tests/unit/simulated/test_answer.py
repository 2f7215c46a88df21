"""Answers are read when they are whole, and not before."""

from __future__ import annotations

import pytest

from pymesh.simulated.answer import read

_PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nt: v\r\n\r\n"


@pytest.mark.parametrize("octets", [_PLAIN, _CHUNKED, b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + _PLAIN])
def test_a_whole_one(octets: bytes) -> None:
    answer = read(octets, "GET", is_over=False)
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"abc")
    for end in range(len(octets)):
        assert read(octets[:end], "GET", is_over=False) is None, octets[:end]


def test_what_ends_with_the_connection() -> None:
    octets = b"HTTP/1.1 200 OK\r\n\r\nabc"
    assert read(octets, "GET", is_over=False) is None
    answer = read(octets, "GET", is_over=True)
    assert answer is not None
    assert answer.body == b"abc"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("CONNECT", 200)])
def test_what_has_no_body(method: str, status: int) -> None:
    answer = read(f"HTTP/1.1 {status} x\r\ncontent-length: 7\r\nx-a: b\r\n\r\n".encode(), method, is_over=False)
    assert answer is not None
    assert (answer.status, answer.body, answer.header("x-a"), answer.header("x-b")) == (status, b"", "b", None)
