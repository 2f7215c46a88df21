"""Which hosts the admin pages answer for."""

from __future__ import annotations

import pytest

from pymesh.control.admin.guard import is_loopback


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:15014", "localhost:80", "LOCALHOST", "[::1]:1", "[::1]", "127.9.9.9"]
)
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            ":",
            "evil.example",
            "evil.example:15014",
            "localhost.evil.example",
            "evil.localhost",
            "10.0.0.1",
            "0.0.0.0",
        ),
        *(
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "::1",
            "[::1",
            "[::2]:1",
            "127.0.0.1:",
            "127.0.0.1:x",
            "2130706433",
        ),
        *("localhost/", "localhost:80:80", "127.0.0.1 ", "127.1"),
    ],
)
def test_everybody_else(host: str) -> None:
    assert not is_loopback(host)
