"""A cluster with health checks serves nobody before its hosts were asked: ours and Envoy, at the start and by ADS.

What a host says to its first check is held back until the test has looked at what happens meanwhile.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pymesh.control.xds import pb
from tests.proxy import bootstrap
from tests.proxy.bootstrap import Json, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, command, eventually, proxy
from tests.tools import ads, resources
from tests.tools.ports import free_ports
from tests.tools.processes import accepts, running
from tests.tools.serving import accepting

KINDS = ["envoy", "pymesh"]
#: Whoever is not asked waits for a minute; a check may take as long.
CHECK: Json = {
    "timeout": "60s",
    "interval": "60s",
    "no_traffic_interval": "60s",
    "unhealthy_threshold": 3,
    "healthy_threshold": 3,
    "http_health_check": {"path": "/healthz"},
}
PATIENCE = 60.0


@dataclass
class Reluctant:
    """Answers what it is asked, but `/healthz` only when it may, and with a status of its own."""

    name: str
    port: int = 0
    health: int = 200
    #: It was asked how it is; it may say so.
    asked: threading.Event = field(default_factory=threading.Event)
    may_say: threading.Event = field(default_factory=threading.Event)

    def talk(self, connection: socket.socket) -> None:
        """On one connection."""
        with connection.makefile("rb") as lines:
            while first := lines.readline():
                while lines.readline().strip():
                    pass
                status = 200
                if b" /healthz " in first:
                    self.asked.set()
                    self.may_say.wait(PATIENCE)
                    status = self.health
                body = self.name.encode()
                connection.sendall(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))


@contextmanager
def reluctant(*names: str) -> Iterator[list[Reluctant]]:
    """Hosts that nothing was heard of yet."""
    hosts = [Reluctant(name) for name in names]
    with ExitStack() as stack:
        for host in hosts:
            host.port = stack.enter_context(accepting(host.talk))
            stack.callback(host.may_say.set)
        yield hosts


def ask(port: int) -> tuple[int, str]:
    """Status, and who has answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def ready(admin: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=PATIENCE)
    connection.request("GET", "/ready")
    try:
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_proxy_that_starts_waits_for_the_first_checks(tmp_path: Path, workers: int) -> None:
    """Nobody listens before; then all requests go to the host that is well."""
    seen = {}
    for kind in KINDS:
        port, admin = free_ports(2)
        with reluctant("ill", "well") as (ill, well):
            ill.health = 503
            some = bootstrap.cluster("some", [ill.port, well.port], health_checks=[CHECK])
            listener = http_listener(port, [virtual_host("all", [to_cluster("some")])])
            file = tmp_path / f"{kind}.json"
            file.write_text(json.dumps(bootstrap.bootstrap([listener], [some], admin)))
            with running(command(kind, file, workers), title=kind, ports=[admin], timeout=PATIENCE):
                assert ill.asked.wait(PATIENCE) and well.asked.wait(PATIENCE), kind
                well.may_say.set()
                early = ready(admin)
                is_open = accepts(port)
                ill.may_say.set()
                assert eventually(lambda admin=admin: ready(admin) == 200, PATIENCE)
                answers = {ask(port) for _ in range(20)}
                seen[kind] = (early, is_open, answers)
    assert seen["pymesh"] == seen["envoy"] == (503, False, {(200, "well")})


def test_a_cluster_of_ads_waits_for_its_first_checks_and_new_hosts_for_theirs() -> None:
    seen: dict[str, list[object]] = {}
    for kind in KINDS:
        seen[kind] = []
        server = ads.Server("DELTA_GRPC")
        server.start()
        port, admin = free_ports(2)
        with reluctant("one", "two", "new") as (one, two, new), reluctant("plain") as (plain,):
            checked = resources.cluster(
                "checked", health_checks=[CHECK], common_lb_config={"healthy_panic_threshold": {"value": 0}}
            )
            table = resources.routes("table", "plain")
            server.put(
                resources.cluster("plain"),
                resources.endpoints("plain", plain.port),
                resources.listener("http", port, "table"),
                table,
            )
            config = bootstrap.dynamic("DELTA_GRPC", bootstrap.cluster("ads", [server.port], http2=True), admin)
            with proxy(kind, config) as started:
                assert ask(port) == (200, "plain"), kind
                server.put(checked, resources.endpoints("checked", one.port, two.port))
                server.push(pb.CLUSTER)
                assert one.asked.wait(PATIENCE) and two.asked.wait(PATIENCE), kind
                # Nobody is led there yet: the cluster is none.
                server.put(resources.routes("table", "checked"))
                server.push(pb.ROUTES)
                assert eventually(lambda port=port: ask(port)[0] == 503, PATIENCE), kind
                seen[kind].append((ask(port), _warming(started)))
                # A bad answer is one, too.
                two.health = 503
                one.may_say.set()
                two.may_say.set()
                assert eventually(lambda port=port: ask(port) == (200, "one"), PATIENCE), kind
                seen[kind].append(({ask(port) for _ in range(20)}, _warming(started), _members(started)))
                # A host that joins is not used before it has answered; that of a cluster that serves costs nobody.
                server.put(resources.endpoints("checked", one.port, two.port, new.port))
                server.push(pb.ENDPOINTS)
                assert new.asked.wait(PATIENCE), kind
                assert eventually(lambda started=started: _members(started)[0] == 3, PATIENCE), kind
                seen[kind].append(({ask(port) for _ in range(20)}, _members(started)))
                new.may_say.set()
                assert eventually(lambda started=started: _members(started)[1] == 2, PATIENCE), kind
                assert eventually(lambda port=port: ask(port) == (200, "new"), PATIENCE), kind
                # Checks for a cluster that serves already: it goes on as it was until the new one is warm.
                again = resources.cluster("plain", service="again", health_checks=[CHECK])
                server.put(again, resources.endpoints("again", plain.port), resources.routes("table", "plain"))
                server.push(pb.ROUTES)
                assert eventually(lambda port=port: ask(port) == (200, "plain"), PATIENCE), kind
                server.push(pb.CLUSTER)
                assert plain.asked.wait(PATIENCE), kind
                seen[kind].append(({ask(port) for _ in range(20)}, _warming(started)))
                plain.may_say.set()
                assert eventually(lambda started=started: _warming(started) == [], PATIENCE), kind
                seen[kind].append({ask(port) for _ in range(20)})
        server.stop()
        assert not server.violations
    assert seen["pymesh"] == seen["envoy"]
    assert seen["pymesh"] == [
        ((503, ""), ["checked"]),
        ({(200, "one")}, [], (2, 1)),
        ({(200, "one")}, (3, 1)),
        ({(200, "plain")}, ["plain"]),
        {(200, "plain")},
    ]


def _warming(started: Proxy) -> list[str]:
    """Clusters that are not warm yet."""
    (dump,) = (one for one in json.loads(started.admin("/config_dump"))["configs"] if "dynamic_active_clusters" in one)
    return [one["cluster"]["name"] for one in dump.get("dynamic_warming_clusters", [])]


def _members(started: Proxy) -> tuple[int, int]:
    """Of the cluster that is checked: all hosts, and those that are healthy."""
    stats = started.stats()
    return stats["cluster.checked.membership_total"], stats["cluster.checked.membership_healthy"]
