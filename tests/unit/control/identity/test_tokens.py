"""The token file: who is let in, when it is read again, what is refused."""

import asyncio
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pymesh.control.identity import private_files
from pymesh.control.identity.spiffe import Identity
from pymesh.control.identity.tokens import TokenFile, TokenFileError


def identity(tokens: TokenFile, token: str) -> Identity | None:
    return asyncio.run(tokens.authenticate(token))


def entry(token: str, account: str) -> dict[str, object]:
    return {hashlib.sha256(token.encode()).hexdigest(): {"namespace": "shop", "serviceAccount": account}}


def written(path: Path, content: object) -> Path:
    private_files.write(path, json.dumps(content).encode())
    return path


def test_known_tokens_prove_identities_and_others_nothing(tmp_path: Path) -> None:
    tokens = TokenFile(written(tmp_path / "t", entry("a", "cart") | entry("b", "pay")), "cluster.local")
    assert identity(tokens, "a") == Identity("cluster.local", "shop", "cart")
    assert identity(tokens, "b") == Identity("cluster.local", "shop", "pay")
    for unknown in ("", "c", "a" * 100_000, hashlib.sha256(b"a").hexdigest(), "\udcff"):
        assert identity(tokens, unknown) is None


def test_a_gateways_right_ends_with_its_token(tmp_path: Path) -> None:
    of_gateway = next(iter(entry("a", "edge")))
    content = {
        of_gateway: {"namespace": "shop", "serviceAccount": "edge", "gateway": True, "expires": "2026-01-02T00:00:00Z"},
        **entry("b", "edge"),
    }
    now = datetime(2026, 1, 1, tzinfo=UTC)
    tokens = TokenFile(written(tmp_path / "t", content), "cluster.local", lambda: now)
    edge = identity(tokens, "b")
    assert edge is not None and asyncio.run(tokens.is_gateway(edge))
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert identity(tokens, "a") is None
    assert identity(tokens, "b") == edge and not asyncio.run(tokens.is_gateway(edge)), (
        "another token of it says nothing of gateways"
    )


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    tokens = TokenFile(written(tmp_path / "t", entry("a", "cart")), "cluster.local")
    written(tmp_path / "t", entry("b", "cart"))
    assert identity(tokens, "a") is None
    assert identity(tokens, "b") is not None


def test_a_change_that_cannot_be_read_keeps_the_old_tokens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = TokenFile(written(tmp_path / "t", entry("a", "cart")), "cluster.local")
    private_files.write(tmp_path / "t", b"{")
    assert identity(tokens, "a") is not None
    assert identity(tokens, "a") is not None
    assert len([r for r in caplog.records if "old tokens stay valid" in r.message]) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["list"], "Expected `object`"),
        ({"plain-token": {"namespace": "n", "serviceAccount": "s"}}, "not a sha256"),
        ({"0" * 64: {"namespace": "n"}}, "serviceAccount"),
        ({"0" * 64: {"namespace": "n", "serviceAccount": "s", "x": 1}}, "unknown field"),
        ({"0" * 64: {"namespace": "N/", "serviceAccount": "s"}}, "DNS label"),
    ],
)
def test_bad_files_are_refused_with_their_place(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(TokenFileError, match=message) as caught:
        TokenFile(written(tmp_path / "t", content), "cluster.local")
    assert str(tmp_path / "t") in str(caught.value)
    assert "plain-token" not in str(caught.value)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "t", {}).chmod(0o644)
    with pytest.raises(TokenFileError, match="chmod 600"):
        TokenFile(tmp_path / "t", "cluster.local")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="No such file"):
        TokenFile(tmp_path / "t", "cluster.local")
