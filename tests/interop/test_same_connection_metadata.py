"""What a policy of connections finds out is known at once: to its own rules, those behind, and the log, as in Envoy.

(What a policy of HTTP finds out, its own rules do not know: `tests/differential/test_same_access.py`.)
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.differential.running import KINDS
from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, tcp_listener
from tests.proxy.running import eventually, lines_of, proxy
from tests.tools.ports import free_port, free_ports
from tests.tools.serving import accepting

_RBAC = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"
_NAME = "envoy.filters.network.rbac"
_ANYBODY = {"policies": {"p": {"permissions": [{"any": True}], "principals": [{"any": True}]}}}


@pytest.fixture
def greeter() -> Iterator[int]:
    """A server that says one word to whoever connects."""

    def greet(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"hi")

    with accepting(greet) as port:
        yield port


@pytest.mark.parametrize("kind", KINDS)
def test_shadow_results(kind: str, greeter: int, tmp_path: Path) -> None:
    shadow: Json = {"shadow_rules": {"action": "DENY", **_ANYBODY}, "shadow_rules_stat_prefix": "seen_"}
    # Whoever is judged by what nobody has found out is refused: `nothing` shows that the others are judged at all.
    matcher = {"filter": _NAME, "path": [{"key": "seen_shadow_engine_result"}], "value": {"present_match": True}}
    policy = {"permissions": [{"any": True}], "principals": [{"metadata": matcher}]}
    rules = {"rules": {"policies": {"p": policy}}}
    listeners = []
    for name, filters in (("itself", [{**shadow, **rules}]), ("behind", [shadow, rules]), ("nothing", [rules])):
        line = f"%DYNAMIC_METADATA({_NAME}:seen_shadow_effective_policy_id)%\n"
        listener = tcp_listener(free_port(), "a", name=name, access_log=[access_log(tmp_path / name, line)])
        chain = listener["filter_chains"][0]["filters"]
        chain[:0] = [
            {"name": f"r{number}", "typed_config": {"@type": _RBAC, "stat_prefix": f"{name}{number}.", **one}}
            for number, one in enumerate(filters)
        ]
        listeners.append(listener)
    with proxy(kind, bootstrap(listeners, [cluster("a", [greeter])], *free_ports(1))) as started:
        assert [_heard(port) for port in started.ports] == [b"hi", b"hi", b""]
        for name, found in (("itself", "p"), ("behind", "p"), ("nothing", "-")):
            # One line or two: to see that the proxy listens is a connection too.
            assert eventually(lambda name=name, found=found: set(lines_of(tmp_path / name)) == {found})  # type: ignore[misc]


def _heard(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.sendall(b"x")
            return connection.recv(10)
        except OSError:
            return b""
