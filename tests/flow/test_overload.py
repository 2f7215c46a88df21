"""More than the process may take: connections, file descriptors, memory. It sheds what is new, serves the rest, and
takes new work again when there is room; the admin pages answer all the while."""

from __future__ import annotations

import http.client
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.proxy.bootstrap import Json, bootstrap, http_listener, virtual_host
from tests.proxy.running import Proxy, eventually
from tests.tools.ports import free_ports

_MONITORS = "type.googleapis.com/envoy.extensions.resource_monitors"
Start = Callable[[Json], AbstractContextManager[Proxy]]


def _config(**fields: object) -> Json:
    port, admin = free_ports(2)
    routes: list[Json] = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    made = bootstrap([http_listener(port, [virtual_host("all", routes)], name="in")], [], admin)
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


def _memory(threshold: float, *actions: str) -> Json:
    """More than one octet is always in use: pressure is above every threshold. A limit of 1 TiB is never near."""
    heap = {"@type": f"{_MONITORS}.fixed_heap.v3.FixedHeapConfig", "max_heap_size_bytes": 1 << 40}
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


def test_without_pressure_nothing_is_shed(run_proxy: Start) -> None:
    actions = ["stop_accepting_requests", "reject_incoming_connections", "stop_accepting_connections"]
    with run_proxy(_config(**_memory(NEVER, *actions))) as proxy:
        assert _status(proxy.port) == (200, None)
        assert not any(value for name, value in proxy.stats().items() if name.endswith(".active"))
