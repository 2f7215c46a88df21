"""Simulated proxies among themselves: links, refusals, and a time that passes without anybody waiting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pymesh._bridge import ProxyError
from pymesh._bridge.simulated import SimulatedProxy
from pymesh.simulated.answer import read
from pymesh.simulated.grpc import GrpcServer
from pymesh.simulated.messages import Answered
from pymesh.simulated.network import NANOS, Landing, Network, Node, Serving, Wire

_HTTP = "type.googleapis.com/envoy.extensions.filters"
_NOW = 1_772_323_200 * NANOS


def proxy(
    route: dict[str, Any], *clusters: dict[str, Any], filters: Sequence[dict[str, Any]] = (), seed: int = 1
) -> SimulatedProxy:
    """One listener, one route."""
    line = "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %DURATION% %UPSTREAM_HOST%\n"
    log = {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        "log_format": {"text_format_source": {"inline_string": line}},
    }
    manager = {
        "@type": f"{_HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "access_log": [{"name": "log", "typed_config": log}],
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}]
        },
        "http_filters": [*filters, {"name": "router", "typed_config": {"@type": f"{_HTTP}.http.router.v3.Router"}}],
    }
    listener = {
        "name": "in",
        "address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    static = {"listeners": [listener], "clusters": list(clusters)}
    return SimulatedProxy(json.dumps({"static_resources": static}), seed=seed, unix_nanos=_NOW)


def cluster(*addresses: str) -> dict[str, Any]:
    """The cluster `b`."""
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": address, "port_value": 80}}}} for address in addresses
    ]
    assignment = {"cluster_name": "b", "endpoints": [{"lb_endpoints": endpoints}]}
    return {"name": "b", "type": "STATIC", "lb_policy": "RANDOM", "load_assignment": assignment}


def landing(node: Node) -> Landing:
    return Landing(node, node.proxy.listeners[0].key, "10.0.0.1:80")


def ask(network: Network, node: Node, seconds: float = 3600) -> Answered | None:
    dialled = network.dial(landing(node), "192.0.2.1")
    dialled.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")

    def answer() -> Answered | None:
        return read(bytes(dialled.received), "GET", is_over=dialled.is_over)

    network.run(lambda: answer() is not None, seconds)
    return answer()


def nobody(_: Node, __: str) -> Landing | None:
    return None


def test_a_request_through_two() -> None:
    back = Node("back", "10.0.0.2", proxy({"direct_response": {"status": 201, "body": {"inline_string": "hello"}}}))
    front = Node("front", "10.0.0.1", proxy({"route": {"cluster": "b"}}, cluster("10.0.0.2")))
    asked: list[tuple[str, str]] = []

    def lands(node: Node, address: str) -> Landing:
        asked.append((node.name, address))
        return landing(back)

    network = Network(lands)
    answer = ask(network, front)
    assert answer is not None
    assert (answer.status, answer.body) == (201, b"hello")
    assert asked == [("front", "10.0.0.2:80")]
    assert front.proxy.take_log() == b"201 via_upstream - 0 10.0.0.2:80\n"
    assert front.proxy.take_log() == b""
    assert list(network.touched) == [front, back]


def test_nobody_listens() -> None:
    front = Node("front", "10.0.0.1", proxy({"route": {"cluster": "b"}}, cluster("10.0.0.2")))
    answer = ask(Network(nobody), front)
    assert answer is not None
    assert answer.status == 503
    assert b"remote_connection_failure} UF 0 10.0.0.2:80" in front.proxy.take_log()


def test_time_passes_without_waiting() -> None:
    """A back end that takes too long costs the route's timeout, and none of ours."""
    delay = {"percentage": {"numerator": 100}, "fixed_delay": "60s"}
    fault = {"name": "fault", "typed_config": {"@type": f"{_HTTP}.http.fault.v3.HTTPFault", "delay": delay}}
    back = Node("back", "10.0.0.2", proxy({"direct_response": {"status": 200}}, filters=[fault]))
    front = Node("front", "10.0.0.1", proxy({"route": {"cluster": "b", "timeout": "25s"}}, cluster("10.0.0.2")))
    network = Network(lambda _, __: landing(back))
    begun = time.monotonic()
    answer = ask(network, front)
    assert answer is not None
    assert answer.status == 504
    assert network.now == 25 * NANOS
    assert front.proxy.take_log().startswith(b"504 response_timeout UT 25000 ")
    assert time.monotonic() - begun < 20


def test_a_server_in_python() -> None:
    """An external authorizer over gRPC, asked by the proxy's filter."""
    asked: list[tuple[str, bytes]] = []

    def answer(path: str, message: bytes) -> bytes:
        asked.append((path, message))
        return b"\x0a\x00" if len(asked) == 1 else b"\x0a\x02\x08\x07"

    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"@type": f"type.googleapis.com/{options}", "explicit_http_config": {"http2_protocol_options": {}}}
    authz = {
        "@type": f"{_HTTP}.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "b"}},
    }
    filters = [{"name": "authz", "typed_config": authz}]
    to = {**cluster("10.0.0.9"), "typed_extension_protocol_options": {options: http2}}
    front = Node("front", "10.0.0.1", proxy({"direct_response": {"status": 200}}, to, filters=filters))
    network = Network(lambda _, __: Serving("authorizer", lambda peer: GrpcServer(peer, answer)))
    answers = [ask(network, front), ask(network, front)]
    assert [one and one.status for one in answers] == [200, 403]
    assert [path for path, _ in asked] == ["/envoy.service.auth.v3.Authorization/Check"] * 2
    assert b"192.0.2.1" in asked[0][1]


def test_the_same_seed_the_same_luck() -> None:
    addresses = [f"10.0.1.{number}" for number in range(8)]

    def run(seed: int) -> bytes:
        front = Node("front", "10.0.0.1", proxy({"route": {"cluster": "b"}}, cluster(*addresses), seed=seed))
        network = Network(nobody)
        for _ in range(10):
            ask(network, front)
        return front.proxy.take_log()

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SimulatedProxy("{nope: 1}", seed=1, unix_nanos=0), "nope"),
        (lambda: proxy({"route": {"cluster": "c"}}, cluster("10.0.0.2")), "there is no cluster `c`"),
    ],
)
def test_a_bootstrap_that_is_wrong(make: Callable[[], SimulatedProxy], said: str) -> None:
    with pytest.raises(ProxyError, match=said):
        make()


def test_what_is_no_configuration_is_refused() -> None:
    one = proxy({"direct_response": {"status": 200}})
    assert one.hear(b"\xff\xff") == ["what came is no DeltaDiscoveryResponse"]


class Far:
    """A second each way; or nothing arrives."""

    def __init__(self) -> None:
        self.is_parted = False

    def delay(self, source: str, target: str) -> int | None:
        return None if self.is_parted else NANOS


def test_what_is_sent_arrives_later_and_in_order() -> None:
    seen: list[tuple[int, str]] = []

    class Server:
        def __init__(self, peer: Wire) -> None:
            self.peer = peer

        def receive(self, octets: bytes) -> None:
            seen.append((network.now, octets.partition(b" ")[0].decode()))
            self.peer.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        def end_of_input(self) -> None:
            seen.append((network.now, "end"))

        def reset(self) -> None:
            seen.append((network.now, "reset"))

    front = Node("front", "10.0.0.1", proxy({"route": {"cluster": "b"}}, cluster("10.0.0.2")))
    network = Network(lambda _, __: Serving("back", Server), Far())
    answer = ask(network, front)
    assert answer is not None
    assert answer.status == 200
    # From the client, a handshake, the request and the answer; and to the client.
    assert seen == [(4 * NANOS, "GET")]
    assert network.now == 6 * NANOS
    for wire in network.wires():
        if wire.target == "back":
            network.lose(wire)
    assert seen[-1] == (network.now, "reset")


def test_nothing_arrives_before_it_clears_up() -> None:
    weather = Far()
    back = Node("back", "10.0.0.2", proxy({"direct_response": {"status": 201}}))
    front = Node("front", "10.0.0.1", proxy({"route": {"cluster": "b"}}, cluster("10.0.0.2")))
    network = Network(lambda _, __: landing(back), weather)
    weather.is_parted = True
    dialled = network.dial(landing(front), "192.0.2.1")
    dialled.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    network.run(lambda: False, 100)
    assert (dialled.received, list(network.touched)) == (b"", [])
    weather.is_parted = False
    network.clear_up()
    assert network.run(lambda: bool(dialled.received), 100)


def test_a_node_that_is_dropped_is_heard_of_no_more() -> None:
    back = Node("back", "10.0.0.2", proxy({"direct_response": {"status": 201}}))
    front = Node("front", "10.0.0.1", proxy({"route": {"cluster": "b"}}, cluster("10.0.0.2")))
    network = Network(lambda _, __: None if back.is_down else landing(back), Far())
    dialled = network.dial(landing(front), "192.0.2.1")
    dialled.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    network.run(lambda: False, 3.5)
    network.drop(back)
    network.run(lambda: dialled.is_over or bool(dialled.received), 100)
    assert b"503" in dialled.received
    assert back.proxy.take_log() == b""
    network.drop(front)
    assert dialled.is_over
    assert list(network.wires()) == []
