"""More than the process may take: connections, file descriptors, memory. It sheds what is new, serves the rest, and
takes new work again when there is room; the admin pages answer all the while."""

from __future__ import annotations

import http.client
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually
from tests.tools.ports import free_ports

_MONITORS = "type.googleapis.com/envoy.extensions.resource_monitors"
_OK: Json = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
Start = Callable[[Json], AbstractContextManager[Proxy]]


def _config(**fields: object) -> Json:
    port, admin = free_ports(2)
    made = bootstrap([http_listener(port, [virtual_host("all", [_OK])], name="in")], [], admin)
    return {**made, **fields}


def _runtime(values: Json) -> Json:
    return {"layers": [{"name": "static", "static_layer": values}]}


def _is_open(connection: socket.socket) -> bool:
    """Whether a request on it is answered; a connection that the proxy refuses is closed before."""
    connection.settimeout(10)
    try:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        return connection.recv(4096).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _status(port: int) -> tuple[int, str | None]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("connection")


@contextmanager
def _connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(count)]


BY_MONITOR = {
    "overload_manager": {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"{_MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": 5,
                },
            }
        ]
    }
}
LIMITS = {
    "monitor": (BY_MONITOR, "downstream_global_cx_overflow"),
    "runtime": (
        {"layered_runtime": _runtime({"overload.global_downstream_max_connections": 5})},
        "downstream_global_cx_overflow",
    ),
    "listener": (
        {"layered_runtime": _runtime({"envoy.resource_limits.listener.in.connection_limit": 5})},
        "downstream_cx_overflow",
    ),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_connections_beyond_the_limit_are_closed(limit: str, run_proxy: Start) -> None:
    fields, counter = LIMITS[limit]
    with run_proxy(_config(**fields)) as proxy:
        # What asked whether the port is open has gone.
        assert eventually(lambda: not proxy.active())
        with _connections(proxy.port, 5) as first:
            assert all(map(_is_open, first))
            with _connections(proxy.port, 3) as more:
                assert not any(map(_is_open, more))
            name = f"listener.127.0.0.1_{proxy.port}.{counter}"
            assert proxy.stats()[name] == 3
            assert all(map(_is_open, first)), "those that have a place keep it"
        assert eventually(lambda: not proxy.active())
        assert _status(proxy.port)[0] == 200


def test_without_a_limit_it_is_less_than_half_of_the_descriptors(run_proxy: Start) -> None:
    with run_proxy(_config()) as proxy:
        _, hard = resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE)
        soft = resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE)[0]
        assert soft == min(hard, 1 << 20), "the limit is raised at the start"
        assert 0 < proxy.stats()["overload.global_downstream_max_connections"] < soft / 2


def test_out_of_descriptors_new_connections_are_closed_and_nothing_spins(run_proxy: Start) -> None:
    with run_proxy(_config()) as proxy:
        assert eventually(lambda: not proxy.active())
        with _connections(proxy.port, 2) as first:
            assert all(map(_is_open, first))
            pid = proxy.process.pid
            hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
            # No new descriptor but in the gaps between those that are open.
            most = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 1
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))
            try:
                with _connections(proxy.port, 60) as more:
                    served = sum(map(_is_open, more))
                assert served < 40
                name = f"listener.127.0.0.1_{proxy.port}.downstream_cx_overload_reject"
                assert eventually(lambda: proxy.stats()[name] >= 60 - served)
                assert all(map(_is_open, first))
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert eventually(lambda: _status_or_none(proxy.port) == 200)


def _status_or_none(port: int) -> int | None:
    try:
        return _status(port)[0]
    except OSError:
        return None


def _memory(threshold: float, *actions: str, limit: int = 1 << 40) -> Json:
    """More than one octet is always in use: pressure is above every threshold. A limit of 1 TiB is never near."""
    heap = {"@type": f"{_MONITORS}.fixed_heap.v3.FixedHeapConfig", "max_heap_size_bytes": limit}
    return {
        "overload_manager": {
            "refresh_interval": "0.05s",
            "resource_monitors": [{"name": "envoy.resource_monitors.fixed_heap", "typed_config": heap}],
            "actions": [
                {
                    "name": f"envoy.overload_actions.{action}",
                    "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": threshold}}],
                }
                for action in actions
            ],
        }
    }


ALWAYS, NEVER = 0.0, 0.95


def _active(proxy: Proxy, action: str) -> bool:
    return eventually(lambda: proxy.stats()[f"overload.envoy.overload_actions.{action}.active"] == 1)


def test_under_memory_pressure_requests_are_answered_503(run_proxy: Start) -> None:
    with run_proxy(_config(**_memory(ALWAYS, "stop_accepting_requests", "disable_http_keepalive"))) as proxy:
        assert _active(proxy, "stop_accepting_requests")
        assert _status(proxy.port) == (503, "close")
        stats = proxy.stats()
        assert stats["http.in.downstream_rq_overload_close"] >= 1
        assert stats["http.in.downstream_cx_overload_disable_keepalive"] >= 1
        assert proxy.admin("/ready") == "LIVE\n"


def test_under_memory_pressure_connections_are_refused(run_proxy: Start) -> None:
    config = _config(**_memory(ALWAYS, "reject_incoming_connections"))
    with run_proxy(config) as proxy:
        assert _active(proxy, "reject_incoming_connections")
        with _connections(proxy.port, 3) as refused:
            assert not any(map(_is_open, refused))
        assert proxy.stats()[f"listener.127.0.0.1_{proxy.port}.downstream_cx_overload_reject"] >= 3


def test_memory_that_rises_sheds_requests_until_it_falls(run_proxy: Start) -> None:
    """It is what clients send to an origin that does not read, as much of it as each may leave in the proxy."""
    # Each leaves some 200 KiB: the process holds 30 MiB at first and would hold more than 80.
    action, clients, most = "stop_accepting_requests", 300, 60 << 20
    port, admin = free_ports(2)
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.socket())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(clients)
        hosts = [virtual_host("all", [to_cluster("deaf", "/deaf"), _OK])]
        limits = {"max_connections": clients, "max_requests": clients}
        to = cluster("deaf", [deaf.getsockname()[1]], circuit_breakers={"thresholds": [limits]})
        config = bootstrap([http_listener(port, hosts, name="in")], [to], admin)
        proxy = stack.enter_context(run_proxy({**config, **_memory(0.9, action, limit=most)}))
        assert _status(proxy.port)[0] == 200
        with _connections(proxy.port, clients) as senders:
            for one in senders:
                one.sendall(b"POST /deaf HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\n\r\n")
                one.setblocking(False)
                # It ends by a reset: what the proxy has not taken yet would keep it open otherwise.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Who comes when there is pressure already would be sent away.
            assert eventually(lambda: proxy.stats()["cluster.deaf.upstream_rq_active"] == clients, 60)
            # Well above the threshold, so that it stays above when what is free is given back.
            pressure = "overload.envoy.resource_monitors.fixed_heap.pressure"
            assert eventually(lambda: _send(senders) or proxy.stats()[pressure] >= 110, 60)
            assert _active(proxy, action)
            assert _status(proxy.port) == (503, None)
            assert proxy.admin("/ready") == "LIVE\n"
            # What comes last stays longest: below it the allocator has room, which it would keep.
            late = stack.enter_context(_connections(proxy.port, 500))
            assert not any(map(_is_open, late))
        assert eventually(lambda: proxy.stats()[f"overload.envoy.overload_actions.{action}.active"] == 0, 60)
        assert all(map(_is_open, late))


def _send(senders: list[socket.socket]) -> bool:
    """Some more on each, as far as it is taken; False."""
    for one in senders:
        with suppress(BlockingIOError):
            for _ in range(16):
                one.send(bytes(1 << 16))
    return False


def test_without_pressure_nothing_is_shed(run_proxy: Start) -> None:
    actions = ["stop_accepting_requests", "reject_incoming_connections", "stop_accepting_connections"]
    with run_proxy(_config(**_memory(NEVER, *actions))) as proxy:
        assert _status(proxy.port) == (200, None)
        assert not any(value for name, value in proxy.stats().items() if name.endswith(".active"))
