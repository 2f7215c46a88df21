"""A real Redis behind the TCP proxy: cleartext, TLS that we terminate, and TLS that we pass on by its server name.

`redis-cli` is the judge: one command, a large value both ways, many commands in one go, and a subscription that gets
what another connection publishes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.proxy.bootstrap import bootstrap, cluster, downstream_tls, tcp_chain, tcp_listener
from tests.proxy.running import eventually, proxy
from tests.tools.certificates import Authority
from tests.tools.peers import peer
from tests.tools.ports import free_port, free_ports
from tests.tools.processes import running

WAYS = ["clear", "terminated", "passed on"]
INSPECTOR = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"


@dataclass(frozen=True)
class Redis:
    """One way in."""

    port: int
    tls: Sequence[str]

    def command(self, *arguments: str) -> list[str]:
        """The client's command line."""
        return [peer("redis-cli"), "-p", str(self.port), *self.tls, *arguments]

    def ask(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """What the client prints."""
        done = subprocess.run(self.command(*arguments), input=stdin, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip(b"\n")


@pytest.fixture(scope="module")
def ways(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Redis]]:
    folder = tmp_path_factory.mktemp("redis")
    pair = authority.issue("redis", dns=["redis.test"])
    plain, secure = free_ports(2)
    ports = dict(zip(WAYS, free_ports(len(WAYS)), strict=True))
    server = [peer("redis-server"), "--port", str(plain), "--tls-port", str(secure), "--bind", "127.0.0.1"]
    server += ["--tls-cert-file", str(pair.chain), "--tls-key-file", str(pair.key), "--tls-auth-clients", "no"]
    server += ["--tls-ca-cert-file", str(authority.root), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    by_name = tcp_chain("secure", stat_prefix="passed", filter_chain_match={"server_names": ["redis.test"]})
    listeners = [
        tcp_listener(ports["clear"], "plain", name="clear"),
        tcp_listener(ports["terminated"], "plain", name="terminated", tls=downstream_tls(pair, alpn=())),
        {
            **tcp_listener(ports["passed on"], "secure", name="passed"),
            "filter_chains": [by_name],
            "listener_filters": [{"name": "tls", "typed_config": {"@type": INSPECTOR}}],
        },
    ]
    clusters = [cluster("plain", [plain]), cluster("secure", [secure])]
    with ExitStack() as stack:
        stack.enter_context(running(server, ports=[plain, secure]))
        started = stack.enter_context(proxy("pymesh", bootstrap(listeners, clusters, free_port())))
        tls = ["--tls", "--cacert", str(authority.root), "--sni", "redis.test"]
        yield {way: Redis(port, [] if way == "clear" else tls) for way, port in ports.items()}
        assert eventually(lambda: not started.active()), started.active()


@pytest.mark.parametrize("way", WAYS)
def test_commands(way: str, ways: dict[str, Redis]) -> None:
    redis = ways[way]
    assert redis.ask("PING") == b"PONG"
    value = bytes(range(33, 126)) * 50_000
    assert redis.ask("-x", "SET", way, stdin=value) == b"OK"
    assert redis.ask("GET", way) == value
    many = b"".join(b"SET key:%d %d\r\n" % (number, number) for number in range(20_000))
    assert b"replies: 20000" in redis.ask("--pipe", stdin=many)
    assert redis.ask("GET", "key:19999") == b"19999"


@pytest.mark.parametrize("way", WAYS)
def test_a_subscription(way: str, ways: dict[str, Redis]) -> None:
    redis = ways[way]
    with running(redis.command("SUBSCRIBE", "news"), title="subscriber") as subscriber:
        assert eventually(lambda: "subscribe" in subscriber.output(), 30), subscriber.tail()
        assert redis.ask("PUBLISH", "news", way) == b"1"
        assert eventually(lambda: way in subscriber.output(), 30), subscriber.tail()
