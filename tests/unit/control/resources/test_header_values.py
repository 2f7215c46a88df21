"""The commands that a header's value may have are those that the proxy knows."""

import re
from pathlib import Path

import pytest

from pymesh.control.resources.header_values import COMMANDS, log_problems, value_problems

RUST = Path(__file__).parents[4] / "rust" / "model" / "src" / "format" / "operator.rs"


def test_the_proxy_knows_the_same_commands() -> None:
    assert set(re.findall(r'\("([A-Z0-9_]+)", Operator::', RUST.read_text())) == COMMANDS


@pytest.mark.parametrize(
    "command",
    [
        "START_TIME(%Y/%m/%dT%H:%M:%S%z %s.%3f)",
        "COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)",
        "GRPC_STATUS(NUMBER)",
        "PATH(NQ):12",
        "QUERY_PARAM(page)",
        "REQUESTED_SERVER_NAME(HOST_FIRST:HOST)",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(24)",
        "REQUEST_HEADER(:METHOD)",
        "DYNAMIC_METADATA(envoy.filters.http.jwt_authn:sub)",
        "METADATA(DYNAMIC:envoy.filters.http.jwt_authn:sub)",
        "ENVIRONMENT(POD_NAME):8",
        "UPSTREAM_TLS_VERSION",
    ],
)
def test_a_log_may_say(command: str) -> None:
    assert not list(log_problems("text", f"a %{command}% b %PROTOCOL%"))


@pytest.mark.parametrize("command", ["START_TIME()", "COMMON_DURATION", "DURATION(ms)", "METADATA(CLUSTER:a:b)"])
def test_a_log_may_not_say(command: str) -> None:
    assert list(log_problems("text", f"%{command}%"))


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
