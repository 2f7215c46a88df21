"""`examples/filters/signing.py`: what one side signs the other takes, and nothing else; in the harness, and in two
proxies of which one signs and the other verifies."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pymesh.filters.loader import FilterError
from pymesh.testing import Asked, FilterHarness
from tests.filters.example import Deployed, deployed, harness

KEY = b"0123456789abcdef0123456789abcdef"
BODY = b'{"order": 7}'


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "key"
    file.write_bytes(KEY + b"\n")
    return {"key_file": str(file)}


@pytest.fixture
def verify(config: dict[str, Any]) -> Iterator[FilterHarness]:
    with harness("signing:Verify", config) as one:
        yield one


@pytest.fixture
def signed(config: dict[str, Any]) -> Asked:
    with harness("signing:Sign", config) as one:
        asked = one.request("POST", "/orders?x=1", body=BODY).upstream
    assert asked is not None
    return asked


def test_the_signature_is_what_it_says(signed: Asked) -> None:
    """By a second reading of the module's text."""
    head = f"{signed.headers['x-signature-time']}\nPOST\n/orders?x=1\n".encode()
    wanted = hmac.digest(KEY, head + hashlib.sha256(BODY).digest(), "sha256").hex()
    assert signed.headers["x-signature"] == wanted


def test_what_is_signed_is_taken_and_the_signature_taken_off(signed: Asked, verify: FilterHarness) -> None:
    taken = verify.request("POST", "/orders?x=1", headers=signed.headers, body=BODY).upstream
    assert taken is not None
    assert (taken.body, "x-signature" in taken.headers, "x-signature-time" in taken.headers) == (BODY, False, False)


def test_nothing_else_is(signed: Asked, verify: FilterHarness) -> None:
    fields = dict(signed.headers.items())
    method, path = "POST", "/orders?x=1"
    del fields["content-length"]

    def status(headers: dict[str, str], method: str = method, path: str = path, body: bytes = BODY) -> int:
        exchange = verify.request(method, path, headers=headers, body=body)
        assert (exchange.upstream is None) == (exchange.status != 200)
        return exchange.status

    assert status(fields) == 200
    assert status({}) == 401
    assert status({**fields, "x-signature": fields["x-signature"][::-1]}) == 403
    assert status({**fields, "x-signature": "\xff"}) == 403
    assert status(fields, body=BODY + b" ") == 403
    assert status(fields, body=b"") == 403
    assert status(fields, path="/orders?x=2") == 403
    assert status(fields, method="PUT") == 403
    later = str(int(fields["x-signature-time"]) + 1)
    assert status({**fields, "x-signature-time": later}) == 403
    for out_of_date in ("0", "-1", "soon", "9" * 30):
        assert status({**fields, "x-signature-time": out_of_date}) == 403


def test_a_key_that_is_not_there_or_too_short(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"short")
    for name, words in (("none", "No such file"), ("short", "shorter than 32 octets")):
        with pytest.raises(FilterError, match=words):
            harness("signing:Sign", {"key_file": str(tmp_path / name)})


@dataclass(frozen=True)
class Pair:
    """A proxy that signs, and the one behind it that verifies."""

    signs: Deployed
    verifies: Deployed


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    file = tmp_path_factory.mktemp("signing") / "key"
    file.write_bytes(KEY)
    config = {"key_file": str(file)}
    with deployed(("signing:Verify", config)) as verifies, deployed(("signing:Sign", config), to=verifies) as signs:
        yield Pair(signs, verifies)


@pytest.mark.parametrize("body", [b"", BODY, b"x" * 200_000])
@pytest.mark.parametrize("path", ["/orders", "/orders?x=%20a&y=", "/a//b/../orders"])
def test_one_proxy_signs_and_the_next_verifies(pair: Pair, path: str, body: bytes) -> None:
    """The path is signed as it is sent, and verified as it has come."""
    before = len(pair.verifies.behind.requests)
    assert pair.signs.ask({}, body, method="POST", path=path).status == 200
    (reached,) = pair.verifies.behind.requests[before:]
    assert reached.method == "POST"
    assert pair.verifies.behind.reports[-1]["sha256"] == hashlib.sha256(body).hexdigest()
    assert (reached.header("x-signature"), reached.header("x-signature-time")) == (None, None)


def test_who_goes_around_the_signer_is_refused(pair: Pair) -> None:
    before = len(pair.verifies.behind.requests)
    assert pair.verifies.ask({}, BODY, method="POST", path="/orders").status == 401
    # One that somebody has made up is replaced by the signer, and refused without it.
    forged = {"x-signature": "0" * 64, "x-signature-time": "1"}
    assert pair.verifies.ask(forged, BODY, method="POST", path="/orders").status == 403
    assert len(pair.verifies.behind.requests) == before
    assert pair.signs.ask(forged, BODY, method="POST", path="/orders").status == 200


def test_two_keys_that_differ_do_not_meet(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(KEY[::-1])
    with deployed(("signing:Sign", {"key_file": str(tmp_path / "other")}), to=pair.verifies) as stranger:
        answer = stranger.ask({}, BODY, method="POST")
        assert (answer.status, answer.body) == (403, b"the signature is wrong\n")
