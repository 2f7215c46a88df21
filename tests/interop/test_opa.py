"""A real Open Policy Agent decides who may pass, over gRPC; when it is dead, slow or talks rubbish, nobody does.

The agent is OPA's own engine behind Envoy's authorization API (`tests/tools/opa`). It sees what the proxy tells it of a
request: headers, body, what the route says; what it answers goes to the origin, the client and the access log.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.peers import peer
from tests.tools.ports import free_port
from tests.tools.processes import Running, running
from tests.tools.serving import accepting
from tests.tools.wire.client import Answer, fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import Origin, origin

POLICY = """
package shop.authz

http := input.attributes.request.http

users := {"Bearer one": "ann", "Bearer two": "bob"}

user := users[http.headers.authorization]

default allow := {"allowed": false, "http_status": 401, "body": "who are you?",
    "headers": {"www-authenticate": "Bearer"}}

# Everybody who is known may look.
allow := {"allowed": true, "headers": {"x-user": user}, "request_headers_to_remove": ["authorization"],
    "response_headers_to_add": {"x-decided-by": "opa"}, "dynamic_metadata": {"user": user, "level": 3}} if {
    user
    http.method == "GET"
}

# And buy what does not cost too much, where the route says what that is.
allow := {"allowed": true, "headers": {"x-user": user}} if {
    user
    http.method == "POST"
    json.unmarshal(http.body).price <= to_number(input.attributes.contextExtensions.most)
}

allow := {"allowed": false, "http_status": 403, "body": "too much"} if {
    user
    http.method == "POST"
    json.unmarshal(http.body).price > to_number(input.attributes.contextExtensions.most)
}
"""
METADATA = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:user)%"
LINE = f"%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% {METADATA}\n"
TIMEOUT = 0.5
#: A proxy that waited for an answer would wait for ever; a slow machine is not that slow.
PATIENCE = 20.0

_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"


@dataclass
class Shop:
    """A proxy in front of an origin, the agent's port, and the log."""

    proxy: Proxy
    origin: Origin
    agent: int
    policy: Path
    log: Path
    #: Requests that were sent.
    sent: int = 0

    def get(self, token: str | None = "one") -> Answer:
        """Asks for something."""
        headers = [("authorization", f"Bearer {token}")] if token else []
        self.sent += 1
        return fetch(self.proxy.port, Request("GET", "/", "shop.test", headers))

    def buy(self, price: int, token: str = "two") -> Answer:
        """Sends a body that the agent judges."""
        body = f'{{"price": {price}}}'.encode()
        self.sent += 1
        return fetch(self.proxy.port, Request("POST", "/", "shop.test", [("authorization", f"Bearer {token}")]), body)

    def last_line(self) -> str:
        """What the access log says of the last request. Each worker writes when it likes, so it has to be whole."""
        assert eventually(lambda: len(lines_of(self.log)) == self.sent)
        return lines_of(self.log)[-1]

    def nobody_passes(self) -> float:
        """Asks, and is refused. How long that took."""
        assert eventually(lambda: len(lines_of(self.log)) == self.sent)
        reached, began = len(self.origin.requests), time.monotonic()
        answer = self.get()
        took = time.monotonic() - began
        assert (answer.status, answer.body) == (503, b"")
        assert len(self.origin.requests) == reached, "the origin was not asked"
        assert self.last_line() == "503 UAEX ext_authz_error -"
        return took

    def everybody_passes_again(self) -> None:
        """The agent is asked again as soon as it answers."""
        assert eventually(lambda: self.get().status == 200)


@contextmanager
def agent(port: int, policy: Path) -> Iterator[Running]:
    """The agent, which has read its policy."""
    command = [peer("opa-authz"), "-addr", f"127.0.0.1:{port}", "-policy", str(policy)]
    with running([*command, "-query", "data.shop.authz.allow"], title="opa", ports=[port]) as process:
        yield process


@contextmanager
def shop(folder: Path, kind: str = "pymesh") -> Iterator[Shop]:
    """The proxy without the agent."""
    port, policy, log = free_port(), folder / "policy.rego", folder / f"{kind}.log"
    policy.write_text(POLICY)
    config: Json = {
        "@type": f"{_FILTERS}.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "opa"}, "timeout": f"{TIMEOUT}s"},
        "with_request_body": {"max_request_bytes": 1024},
        "status_on_error": {"code": 503},
    }
    most = {"check_settings": {"context_extensions": {"most": "100"}}}
    per_route = {"opa": {"@type": f"{_FILTERS}.ext_authz.v3.ExtAuthzPerRoute", **most}}
    filters = [
        {"name": "opa", "typed_config": config},
        {"name": "router", "typed_config": {"@type": f"{_FILTERS}.router.v3.Router"}},
    ]
    with origin("shop") as behind:
        hosts = [virtual_host("all", [{**to_cluster("shop"), "typed_per_filter_config": per_route}])]
        listener = http_listener(free_port(), hosts, http_filters=filters, access_log=[access_log(log, LINE)])
        clusters = [cluster("shop", [behind.port]), cluster("opa", [port], http2=True)]
        with proxy(kind, bootstrap([listener], clusters, free_port()), concurrency=2) as started:
            yield Shop(started, behind, port, policy, log)


@pytest.mark.parametrize("kind", ["pymesh", "envoy"])
def test_a_policy_decides(kind: str, tmp_path: Path) -> None:
    with shop(tmp_path, kind) as it, agent(it.agent, it.policy):
        seen = it.get()
        assert (seen.status, seen.header("x-decided-by")) == (200, "opa")
        told = dict(it.origin.requests[-1].headers)
        assert told["x-user"] == "ann" and "authorization" not in told
        assert it.last_line() == "200 - via_upstream ann"

        unknown = it.get(None)
        assert it.last_line() == "401 UAEX ext_authz_denied -"
        assert (unknown.status, unknown.body, unknown.header("www-authenticate")) == (401, b"who are you?", "Bearer")
        assert it.get("three").status == 401
        assert it.last_line() == "401 UAEX ext_authz_denied -"

        assert it.buy(100).status == 200
        assert dict(it.origin.requests[-1].headers)["x-user"] == "bob"
        assert it.last_line() == "200 - via_upstream -"
        too_much = it.buy(101)
        assert (too_much.status, too_much.body) == (403, b"too much")
        assert len(it.origin.requests) == 2
        assert it.last_line() == "403 UAEX ext_authz_denied -"


def test_a_dead_agent_lets_nobody_pass(tmp_path: Path) -> None:
    with shop(tmp_path) as it:
        assert it.nobody_passes() < PATIENCE, "nobody listens there yet"
        with agent(it.agent, it.policy):
            it.everybody_passes_again()
        for _ in range(3):
            assert it.nobody_passes() < PATIENCE
        with agent(it.agent, it.policy):
            it.everybody_passes_again()


def test_a_stopped_agent_lets_nobody_pass(tmp_path: Path) -> None:
    with shop(tmp_path) as it, agent(it.agent, it.policy) as process:
        it.everybody_passes_again()
        os.kill(process.pid, signal.SIGSTOP)
        try:
            # A thread may finish an answer while the others stand already.
            assert eventually(lambda: _states(process.pid) == {"T"})
            for _ in range(3):
                assert TIMEOUT * 0.9 < it.nobody_passes() < PATIENCE
        finally:
            os.kill(process.pid, signal.SIGCONT)
        it.everybody_passes_again()


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"\0" * 100, b"220 mail.test ESMTP ready\r\n"],
    ids=["silence", "http1", "zeros", "smtp"],
)
def test_an_agent_that_talks_rubbish_lets_nobody_pass(rubbish: bytes, tmp_path: Path) -> None:
    with shop(tmp_path) as it:
        with _saying(it.agent, rubbish):
            for _ in range(2):
                assert it.nobody_passes() < PATIENCE
        with agent(it.agent, it.policy):
            it.everybody_passes_again()


def test_a_policy_that_fails_lets_nobody_pass(tmp_path: Path) -> None:
    with shop(tmp_path) as it:
        it.policy.write_text('package shop.authz\n\nallow := "perhaps"\n')
        with agent(it.agent, it.policy):
            assert it.nobody_passes() < PATIENCE


def _states(pid: int) -> set[str]:
    """What the threads of a process do."""
    stats = (task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat"))
    return {stat.rpartition(")")[2].split()[0] for stat in stats}


@contextmanager
def _saying(port: int, octets: bytes) -> Iterator[None]:
    """A server in place of the agent that says the same to everybody and then nothing more."""
    over = threading.Event()

    def say(connection: socket.socket) -> None:
        connection.sendall(octets)
        over.wait()

    with accepting(say, port=port):
        yield
    over.set()
