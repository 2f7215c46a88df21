"""The commands that a header's value may have are those that the proxy knows."""

import re
from pathlib import Path

import pytest

from pymesh.control.resources.header_values import COMMANDS, value_problems

RUST = Path(__file__).parents[4] / "rust" / "model" / "src" / "format" / "operator.rs"


def test_the_proxy_knows_the_same_commands() -> None:
    assert set(re.findall(r'\("([A-Z0-9_]+)", Operator::', RUST.read_text())) == COMMANDS


@pytest.mark.parametrize(
    "value", ["", "a", "%%", "100%%", "%%%PROTOCOL%%%", "%REQ(:path)%", "%REQ(X-A?x-b):10%", "a%RESP(server)%b"]
)
def test_taken(value: str) -> None:
    assert not list(value_problems("set", {"a": value}))


@pytest.mark.parametrize(
    "value", ["%", "%a%", "%%%", "%REQ()%", "%REQ(a b)%", "%PROTOCOL(a)%", "%REQ(a%", "%protocol%"]
)
def test_refused(value: str) -> None:
    assert list(value_problems("set", {"a": value}))
