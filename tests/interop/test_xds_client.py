"""Our xDS client against a server that is not ours: scripted, on grpcio, and a judge of the protocol in both variants.

`PYMESH_TEST_PROXY=envoy` runs the same transcripts on Envoy, to tell a fault of a test from a fault of the proxy.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from pymesh.control.xds import pb
from tests.proxy import bootstrap
from tests.proxy.running import Proxy, eventually
from tests.tools import ads, resources
from tests.tools.certificates import Authority
from tests.tools.ports import free_ports
from tests.tools.processes import accepts
from tests.tools.traffic import get, traffic
from tests.tools.wire.origin import Origin, origin

Json = bootstrap.Json
Start = Callable[[Json], AbstractContextManager[Proxy]]
SYNCED = 20.0


@pytest.fixture(params=["DELTA_GRPC", "GRPC"])
def server(request: pytest.FixtureRequest) -> Iterator[ads.Server]:
    """A running server that still has nothing to say; at the end it must have nothing to complain of."""
    made = ads.Server(request.param)
    made.start()
    yield made
    made.stop()
    assert not made.violations, "\n".join(made.violations)


@pytest.fixture(scope="module")
def origins() -> Iterator[tuple[Origin, Origin]]:
    """Two services that say who they are."""
    with origin("old") as old, origin("new") as new:
        yield old, new


def config(server: ads.Server, admin: int) -> Json:
    """A bootstrap that leaves everything to the server."""
    kind = "DELTA_GRPC" if server.delta else "GRPC"
    return bootstrap.dynamic(kind, bootstrap.cluster("ads", [server.port], http2=True), admin)


def world(server: ads.Server, port: int, to: Origin) -> None:
    """One listener that leads to one origin."""
    server.put(
        resources.cluster("app"),
        resources.endpoints("app", to.port),
        resources.listener("http", port, "table"),
        resources.routes("table", "app"),
    )


def test_first_sync_updates_and_removals(server: ads.Server, origins: tuple[Origin, Origin], run_proxy: Start) -> None:
    port, admin = free_ports(2)
    old, new = origins
    world(server, port, old)
    with run_proxy(config(server, admin)) as proxy:
        # Ready means that everything was answered and serves.
        assert get(port) == (200, "old"), proxy.process.tail()
        assert eventually(server.settled, SYNCED)
        assert not server.refusals()
        (stream,) = server.streams
        order = [request.type_url for request in stream.requests if not request.response_nonce]
        assert order == [pb.CLUSTER, pb.ENDPOINTS, pb.LISTENER, pb.ROUTES]

        with traffic(port) as seen:
            server.put(resources.endpoints("app", new.port))
            server.push(pb.ENDPOINTS)
            assert eventually(lambda: seen[-1:] == [(200, "new")], SYNCED)
        assert {status for status, _ in seen} == {200}

        server.drop(pb.LISTENER, "http")
        server.push(pb.LISTENER)
        assert eventually(lambda: not accepts(port), SYNCED)
        assert eventually(server.settled, SYNCED)
        assert proxy.process.alive()


def test_bad_resources_are_refused_with_the_reason_and_traffic_flows_on(
    server: ads.Server, origins: tuple[Origin, Origin], run_proxy: Start
) -> None:
    port, admin = free_ports(2)
    world(server, port, origins[0])
    negative = resources.cluster("app")
    negative.connect_timeout.FromSeconds(-1)
    twice = resources.routes("table", "app")
    twice.virtual_hosts.add().CopyFrom(twice.virtual_hosts[0])
    nameless = resources.endpoints("app", 1, address="not-an-address")
    beyond = resources.listener("http", port, "table")
    beyond.address.socket_address.port_value = 70_000
    with run_proxy(config(server, admin)) as proxy, traffic(port) as seen:
        for bad, words in (
            (negative, ("app", "connect_timeout")),
            (nameless, ("app", "address")),
            (beyond, ("http", "port_value")),
            (twice, ("table", "virtual_hosts[1].domains")),
        ):
            good = server.world[pb.type_url(bad)][words[0]]
            before = len(server.refusals())
            server.put(bad)
            server.push(pb.type_url(bad))
            assert eventually(lambda before=before: len(server.refusals()) > before, SYNCED), words
            refused = server.refusals()[-1]
            assert refused.type_url == pb.type_url(bad)
            if proxy.kind == "pymesh":
                assert all(word in (refused.reason or "") for word in words), refused
                assert words[1] in proxy.admin("/config_dump").partition('"rejected"')[2]
            assert get(port) == (200, "old")

            server.put(good)
            server.push(pb.type_url(good))
            assert eventually(server.settled, SYNCED)
        if proxy.kind == "pymesh":
            assert '"rejected": []' in proxy.admin("/config_dump")
    assert set(seen) == {(200, "old")}


def test_what_is_new_waits_until_it_can_serve(
    server: ads.Server, origins: tuple[Origin, Origin], run_proxy: Start
) -> None:
    """Make before break: each step is held up at its most awkward moment, and no request fails."""
    port, admin = free_ports(2)
    old, new = origins
    world(server, port, old)
    with run_proxy(config(server, admin)) as proxy, traffic(port) as seen:
        # A changed cluster whose new endpoints are not there yet.
        server.hold(pb.ENDPOINTS)
        server.put(resources.cluster("app", service="elsewhere"), resources.endpoints("elsewhere", new.port))
        server.push(pb.CLUSTER)
        assert eventually(lambda: asked(server, "elsewhere"), SYNCED)
        assert get(port) == (200, "old")
        server.release(pb.ENDPOINTS)
        assert eventually(lambda: seen[-1:] == [(200, "new")], SYNCED)

        # A listener that moves to a table which is not there yet, and leads to another cluster.
        server.hold(pb.ROUTES)
        server.put(
            resources.cluster("next"),
            resources.endpoints("next", old.port),
            resources.listener("http", port, "other"),
            resources.routes("other", "next"),
        )
        server.push(pb.CLUSTER, pb.LISTENER)
        assert eventually(lambda: asked(server, "other"), SYNCED)
        assert get(port) == (200, "new")
        server.release(pb.ROUTES)
        assert eventually(lambda: seen[-1:] == [(200, "old")], SYNCED)

        # Only then what nobody uses any more goes.
        server.drop(pb.CLUSTER, "app")
        server.push(pb.CLUSTER)
        assert eventually(server.settled, SYNCED)
        assert eventually(lambda: '"app"' not in cluster_names(proxy), SYNCED)
        assert get(port) == (200, "old")
        assert not server.refusals()
    assert {status for status, _ in seen} == {200}


def test_a_listener_that_changes_costs_no_request(
    server: ads.Server, origins: tuple[Origin, Origin], run_proxy: Start
) -> None:
    """Not even that of a connection which was accepted for the old one and had not said anything yet."""
    port, admin = free_ports(2)
    world(server, port, origins[0])
    server.put(resources.routes("other", "app"))
    with run_proxy(config(server, admin)), traffic(port) as one, traffic(port) as two:
        for table in ("other", "table") * 10:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as early:
                server.put(resources.listener("http", port, table))
                server.push(pb.LISTENER)
                assert eventually(server.settled, SYNCED)
                assert get(port) == (200, "old")
                early.sendall(b"GET / HTTP/1.1\r\nhost: early\r\n\r\n")
                assert early.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    assert {status for status, _ in [*one, *two]} == {200}


def test_the_server_dies_and_comes_back(server: ads.Server, origins: tuple[Origin, Origin], run_proxy: Start) -> None:
    port, admin = free_ports(2)
    old, new = origins
    world(server, port, old)
    with run_proxy(config(server, admin)) as proxy, traffic(port) as seen:
        for to, name in ((new, "new"), (old, "old")):
            assert eventually(server.settled, SYNCED)
            streams = len(server.streams)
            server.stop()
            assert get(port)[0] == 200, "the last configuration stays in force"
            server.put(resources.endpoints("app", to.port))
            server.start()
            assert eventually(lambda: seen[-1:] == [(200, name)], SYNCED)  # noqa: B023
            # The new stream says who asks and what is known, and no nonce of the old one (the server judges that).
            assert len(server.streams) > streams
            assert eventually(lambda: _firsts(server).keys() == _TYPES, SYNCED), _firsts(server).keys()
            first = _firsts(server)
            if server.delta:
                assert list(first[pb.CLUSTER].initial_resource_versions) == ["app"]
                assert list(first[pb.ROUTES].initial_resource_versions) == ["table"]
            else:
                assert all(request.version_info for request in first.values()), first
        assert proxy.process.alive()
    assert {status for status, _ in seen} == {200}


_TYPES = {pb.CLUSTER, pb.ENDPOINTS, pb.LISTENER, pb.ROUTES}


def _firsts(server: ads.Server) -> dict[str, Any]:
    """The first request of each type on the newest stream."""
    return {request.type_url: request for request in reversed(server.streams[-1].requests)}


def test_the_server_may_come_last(server: ads.Server, origins: tuple[Origin, Origin], run_proxy: Start) -> None:
    port, admin = free_ports(2)
    world(server, port, origins[0])
    server.stop()
    late = threading.Thread(target=lambda: eventually(lambda: accepts(admin), SYNCED) and server.start())
    late.start()
    try:
        with run_proxy(config(server, admin)) as proxy:
            assert get(port) == (200, "old"), proxy.process.tail()
            assert eventually(server.settled, SYNCED)
    finally:
        late.join(SYNCED)


def test_secrets_rotate_without_a_dropped_connection(
    server: ads.Server, origins: tuple[Origin, Origin], authority: Authority, run_proxy: Start
) -> None:
    port, admin = free_ports(2)
    world(server, port, origins[0])
    pairs = [authority.issue(f"rotated-{number}", dns=["localhost"]) for number in range(3)]
    server.put(resources.listener("http", port, "table", secret="served"), resources.secret("served", pairs[0]))
    context = ssl.create_default_context(cafile=authority.root)
    with run_proxy(config(server, admin)) as proxy:
        held = http.client.HTTPSConnection("localhost", port, timeout=10, context=context)
        held.request("GET", "/")
        assert held.getresponse().read()
        first = held.sock
        for pair in pairs[1:]:
            before = served(port, context)
            server.put(resources.secret("served", pair))
            server.push(pb.SECRET)
            assert eventually(lambda before=before: served(port, context) != before, SYNCED)
            held.request("GET", "/")
            assert held.getresponse().read()
            assert held.sock is first, "the connection was opened again"
        # A certificate that does not fit its key changes nothing.
        mixed = resources.secret("served", pairs[0])
        mixed.tls_certificate.private_key.inline_string = pairs[1].key.read_text()
        before = served(port, context)
        server.put(mixed)
        server.push(pb.SECRET)
        assert eventually(lambda: bool(server.refusals()), SYNCED)
        assert served(port, context) == before
        held.close()
        if proxy.kind == "pymesh":
            assert "served: tls_certificate" in (server.refusals()[-1].reason or "")
        assert not any(line in proxy.admin("/config_dump") for line in keys(pairs[0].key.read_text()))
        assert "PRIVATE KEY" not in proxy.process.output()


def test_who_hears_that_there_is_none_does_not_wait(origins: tuple[Origin, Origin], run_proxy: Start) -> None:
    """Incremental, "Knowing When a Requested Resource Does Not Exist": no timeout is sat out, and late is not never."""
    port, admin = free_ports(2)
    server = ads.Server("DELTA_GRPC")
    server.start()
    try:
        server.put(
            resources.cluster("app"), resources.listener("http", port, "table"), resources.routes("table", "app")
        )
        with run_proxy(config(server, admin)):
            assert get(port)[0] == 503
            server.put(resources.endpoints("app", origins[0].port))
            server.push(pb.ENDPOINTS)
            assert eventually(lambda: get(port) == (200, "old"), SYNCED)
    finally:
        server.stop()
    assert not server.violations


def asked(server: ads.Server, name: str) -> bool:
    """Whether the client is subscribed to a name."""
    return any(name in known.names for known in server.streams[-1].types.values())


def cluster_names(proxy: Proxy) -> str:
    """The part of the dump that names the clusters."""
    query = "?resource=dynamic_active_clusters" if proxy.kind == "envoy" else ""
    return proxy.admin(f"/config_dump{query}").partition("ListenersConfigDump")[0]


def served(port: int, context: ssl.SSLContext) -> bytes:
    """The certificate that a new connection is shown."""
    connection = http.client.HTTPSConnection("localhost", port, timeout=10, context=context)
    connection.connect()
    try:
        opened: Any = connection.sock
        certificate: bytes = opened.getpeercert(binary_form=True)
        return certificate
    finally:
        connection.close()


def keys(pem: str) -> list[str]:
    """The lines of a private key."""
    return [line for line in pem.splitlines() if not line.startswith("-----")]
