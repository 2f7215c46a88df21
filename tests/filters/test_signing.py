"""`examples/filters/signing.py`: what one side signs the other takes, and nothing else."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymesh.filters.loader import FilterError
from pymesh.testing import Asked, FilterHarness
from tests.filters.example import harness

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
