"""The mesh's DNS, asked by dnslib: what is there, what is not, what is no question; and over both transports."""

from __future__ import annotations

import asyncio
import random

import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from pymesh.capture import dns

TABLE = {
    "reviews.shop.svc.cluster.local": ["240.240.0.7"],
    "both.test": ["240.240.0.8", "fd00::8"],
    "many.test": [f"10.1.{n // 250}.{n % 250 + 1}" for n in range(500)],
}


def ask(name: str, kind: str = "A", longest: int = 65535) -> DNSRecord:
    raw = dns.answer(DNSRecord.question(name, kind).pack(), TABLE, longest)
    assert raw is not None
    return DNSRecord.parse(raw)


@pytest.mark.parametrize("name", ["reviews.shop.svc.cluster.local", "Reviews.SHOP.svc.cluster.local."])
def test_a_service_has_its_address(name: str) -> None:
    reply = ask(name)
    assert (reply.header.rcode, reply.header.aa, reply.header.qr) == (RCODE.NOERROR, 1, 1)
    assert [str(one.rdata) for one in reply.rr] == ["240.240.0.7"]
    assert str(reply.q.qname).rstrip(".") == name.rstrip(".")


@pytest.mark.parametrize(
    ("name", "kind", "code", "found"),
    [
        ("reviews.shop.svc.cluster.local", "AAAA", RCODE.NOERROR, []),
        ("reviews.shop.svc.cluster.local", "TXT", RCODE.NOERROR, []),
        ("both.test", "AAAA", RCODE.NOERROR, ["fd00::8"]),
        ("both.test", "ANY", RCODE.NOERROR, ["240.240.0.8", "fd00::8"]),
        ("reviews", "A", RCODE.NXDOMAIN, []),
        ("example.com", "A", RCODE.NXDOMAIN, []),
    ],
)
def test_what_is_asked(name: str, kind: str, code: int, found: list[str]) -> None:
    reply = ask(name, kind)
    assert reply.header.rcode == code
    assert [str(one.rdata) for one in reply.rr] == found
    assert all(QTYPE[one.rtype] in ("A", "AAAA") and one.ttl == dns.TTL_S for one in reply.rr)


def test_more_than_a_datagram_holds_is_asked_again_over_tcp() -> None:
    assert (ask("many.test", longest=512).header.tc, ask("many.test", longest=512).rr) == (1, [])
    assert len(ask("many.test").rr) == 500


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (b"\x00\x01\x01\x00\x00\x02\x00\x00\x00\x00\x00\x00" + b"\x01a\x00\x00\x01\x00\x01" * 2, RCODE.FORMERR),
        (b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01", RCODE.FORMERR),
        (b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05ab", RCODE.FORMERR),
        (b"\x00\x01\x28\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01", RCODE.NOTIMP),
    ],
)
def test_what_is_no_question_is_told(query: bytes, code: int) -> None:
    raw = dns.answer(query, TABLE)
    assert raw is not None
    assert raw[:2] == query[:2]
    assert raw[3] & 15 == code


def test_an_answer_is_not_answered_and_nothing_panics() -> None:
    assert dns.answer(b"\x00\x01\x80\x00" + bytes(8), TABLE) is None
    assert dns.answer(b"short", TABLE) is None
    shake = random.Random(7)
    good = DNSRecord.question("reviews.shop.svc.cluster.local").pack()
    for _ in range(5000):
        broken = bytearray(good)
        for _ in range(shake.randrange(1, 6)):
            broken[shake.randrange(len(broken))] = shake.randrange(256)
        dns.answer(bytes(broken[: shake.randrange(len(broken) + 1)]), TABLE)


def test_both_transports() -> None:
    asyncio.run(_both_transports())


async def _both_transports() -> None:
    server = dns.Server(lambda: TABLE)
    await server.start("127.0.0.1", 0)
    try:
        for tcp in (False, True):
            for name, count in (("reviews.shop.svc.cluster.local", 1), ("many.test", 500)):
                question = DNSRecord.question(name)
                raw = await asyncio.to_thread(question.send, "127.0.0.1", server.port, tcp=tcp, timeout=20)
                reply = DNSRecord.parse(raw)
                assert len(reply.rr) == (count if tcp or count == 1 else 0)
                assert reply.header.tc == (not tcp and count > 1)
    finally:
        server.close()
