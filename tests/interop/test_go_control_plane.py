"""Our xDS client against Envoy's go-control-plane, the library that most control planes stand on, in both variants."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pymesh.control.xds import pb
from tests.proxy import bootstrap
from tests.proxy.running import Proxy, eventually, ours
from tests.tools import resources
from tests.tools.peers import peer
from tests.tools.ports import free_ports
from tests.tools.processes import Running, running
from tests.tools.traffic import get, traffic
from tests.tools.wire.origin import origin

PATIENCE = 20.0
TYPES = {pb.CLUSTER, pb.ENDPOINTS, pb.LISTENER, pb.ROUTES}


class Server:
    """The server's ports, and what is put on them."""

    def __init__(self) -> None:
        self.port, self._control = free_ports(2)
        self._version = 0
        self._process: Running

    @contextmanager
    def running(self) -> Iterator[Running]:
        """The server, from now on; it knows nothing."""
        words = [peer("xds-server"), "-port", str(self.port), "-control", str(self._control)]
        with running(words, title="xds-server", ports=[self.port, self._control]) as self._process:
            yield self._process

    def put(self, *messages: Any) -> None:
        """Everything there is, as the next version."""
        self._version += 1
        packed: dict[str, list[str]] = {}
        for one in messages:
            packed.setdefault(pb.type_url(one), []).append(base64.b64encode(pb.encode(one)).decode())
        body = json.dumps({"version": str(self._version), "resources": packed}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._control}/", body, timeout=10) as answer:
            answer.read()

    def heard(self) -> list[dict[str, Any]]:
        """Every request of the clients."""
        return [json.loads(line) for line in self._process.output().splitlines() if line.startswith("{")]

    def accepted(self) -> set[str]:
        """Types of which a response was acknowledged."""
        return {one["type"] for one in self.heard() if one["nonce"] and not one["error"]}


def active(proxy: Proxy) -> set[str]:
    """The clusters that serve."""
    (dump,) = [one for one in json.loads(proxy.admin("/config_dump"))["configs"] if "static_clusters" in one]
    return {one["cluster"]["name"] for one in dump["dynamic_active_clusters"]}


@pytest.mark.parametrize("kind", ["DELTA_GRPC", "GRPC"])
def test_snapshots_of_go_control_plane_are_followed(kind: str) -> None:
    port, admin = free_ports(2)
    server = Server()
    config = bootstrap.dynamic(kind, bootstrap.cluster("ads", [server.port], http2=True), admin)
    with origin("old") as old, origin("new") as new:
        door = resources.listener("http", port, "table")
        first = [resources.cluster("first"), resources.endpoints("first", old.port)]
        second = [resources.cluster("second"), resources.endpoints("second", new.port)]
        to_first, to_second = resources.routes("table", "first"), resources.routes("table", "second")
        negative = resources.cluster("first")
        negative.connect_timeout.FromSeconds(-1)
        with server.running() as process:
            server.put(door, *first, to_first)
            with ours(config) as started, traffic(port) as seen:
                assert eventually(lambda: server.accepted() == TYPES, PATIENCE), process.tail()
                assert get(port) == (200, "old")
                assert server.heard()[0]["node"] == "test-proxy"

                # Make before break, in the steps that the protocol's text wants.
                server.put(door, *first, *second, to_first)
                assert eventually(lambda: active(started) == {"first", "second"}, PATIENCE)
                server.put(door, *first, *second, to_second)
                assert eventually(lambda: seen[-1:] == [(200, "new")], PATIENCE)
                server.put(door, *second, to_second)
                assert eventually(lambda: active(started) == {"second"}, PATIENCE)

                server.put(door, negative, first[1], *second, to_second)
                assert eventually(lambda: any(one["error"] for one in server.heard()), PATIENCE)
                (refused, *_) = [one for one in server.heard() if one["error"]]
                assert refused["type"] == pb.CLUSTER
                assert "first: connect_timeout" in refused["error"]
                assert get(port) == (200, "new")

                # It dies and comes back with what is good.
                process.stop()
                assert get(port) == (200, "new")
                with server.running():
                    server.put(door, *first, *second, to_second)
                    assert eventually(lambda: server.accepted() >= {pb.CLUSTER, pb.ENDPOINTS}, PATIENCE)
                    server.put(door, *first, *second, to_first)
                    assert eventually(lambda: seen[-1:] == [(200, "old")], PATIENCE), started.process.tail()
                    assert not [one for one in server.heard() if one["error"]]
            assert {status for status, _ in seen} == {200}
