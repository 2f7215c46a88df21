"""The service on the wire, with grpcio as an independent client."""

import asyncio
import gc
import queue
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import h2.config
import h2.connection
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from xds_mesh import CACHE, cluster, endpoints, listener, sotw
from xds_mesh import delta as delta_request

from pymesh.control.identity.spiffe import Identity
from pymesh.control.xds import pb, server
from pymesh.control.xds.cache import Snapshot, Table
from pymesh.control.xds.fleet import Fleet
from pymesh.control.xds.grpc import GrpcServer, Limits
from pymesh.control.xds.metrics import XdsMetrics
from pymesh.control.xds.node import Node
from pymesh.control.xds.server import SERVICE, DiscoveryService


class OneToken:
    async def authenticate(self, token: str) -> Identity | None:
        return Identity("cluster.local", "shop", "cart") if token == "good" else None

    async def is_gateway(self, identity: Identity) -> bool:
        return False

    async def reads_secrets(self, identity: Identity) -> bool:
        return False


class Served:
    """A discovery service on its own thread; resources can be exchanged while it runs."""

    def __init__(self) -> None:
        self.resources: list[Any] = []
        self.failing = False
        self.made: list[weakref.ref[Table]] = []
        self.gone: list[str] = []
        self.registry = CollectorRegistry()
        self.loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._main(),))
        self._started = threading.Event()
        self._thread.start()
        assert self._started.wait(10)

    async def _main(self) -> None:
        metrics = XdsMetrics(self.registry)
        self.fleet = Fleet(
            self._snapshot, metrics, gone=lambda node: self.gone.append(node.id), quiet=0.01, longest=0.05
        )
        server = GrpcServer(DiscoveryService(self.fleet, OneToken(), metrics).methods(), Limits(message=64 << 10))
        await server.start(self._socket)
        self._stop = asyncio.Event()
        publisher = asyncio.create_task(self.fleet.run())
        self._started.set()
        await self._stop.wait()
        publisher.cancel()
        await server.stop()

    def _snapshot(self, node: Node, previous: Snapshot | None) -> Snapshot:
        if self.failing:
            raise RuntimeError("translation is broken")
        tables: dict[str, dict[str, Any]] = {pb.CLUSTER: {}, pb.ENDPOINTS: {}, pb.LISTENER: {}}
        for resource in self.resources:
            name = getattr(resource, "cluster_name", "") or resource.name
            tables[pb.type_url(resource)][name] = resource
        tables[pb.LISTENER]["for-" + node.id] = listener("for-" + node.id)
        made = CACHE.snapshot(tables, previous)
        self.made.append(weakref.ref(made[pb.LISTENER]))  # its own
        return made

    def set(self, *resources: Any) -> None:
        self.resources = list(resources)
        self.loop.call_soon_threadsafe(self.fleet.changed)

    def metric(self, line: str) -> bool:
        return line in generate_latest(self.registry).decode().splitlines()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.loop.close()


@pytest.fixture
def served() -> Iterator[Served]:
    running = Served()
    yield running
    running.stop()


class Client:
    """One stream of grpcio."""

    def __init__(self, address: str, variant: str, token: str | None = "good") -> None:
        decode = pb.DeltaDiscoveryResponse if variant == "Delta" else pb.DiscoveryResponse
        self._channel = grpc.insecure_channel(address)
        call = self._channel.stream_stream(
            f"{SERVICE}{variant}AggregatedResources",
            request_serializer=pb.encode,
            response_deserializer=decode.FromString,
        )
        self._requests: queue.Queue[Any] = queue.Queue()
        metadata = [("authorization", f"Bearer {token}")] if token else []
        self._responses = call(iter(self._requests.get, None), metadata=metadata, timeout=10)

    def say(self, request: Any, node: str = "") -> None:
        if node:
            request.node.id = node
        self._requests.put(request)

    def hear(self) -> Any:
        return next(self._responses)

    def refusal(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.hear()
        return caught.value.code(), caught.value.details()

    def close(self) -> None:
        self._requests.put(None)
        self._channel.close()


@pytest.fixture
def client(served: Served) -> Iterator[Callable[..., Client]]:
    opened: list[Client] = []

    def connect(variant: str = "Delta", token: str | None = "good") -> Client:
        opened.append(Client(served.address, variant, token))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


def test_delta_stream_hears_its_resources_and_then_only_changes(served: Served, client: Callable[..., Client]) -> None:
    served.resources = [cluster("a"), cluster("b")]
    proxy = client()
    proxy.say(delta_request(pb.CLUSTER), node="p1")
    first = proxy.hear()
    assert [r.name for r in first.resources] == ["a", "b"]
    proxy.say(delta_request(pb.CLUSTER, nonce=first.nonce))
    served.set(cluster("a"), cluster("b", timeout=3))
    second = proxy.hear()
    assert [r.name for r in second.resources] == ["b"]
    assert pb.unpack(second.resources[0].resource) == cluster("b", timeout=3)


def test_state_of_the_world_stream(served: Served, client: Callable[..., Client]) -> None:
    served.resources = [cluster("a")]
    proxy = client("Stream")
    proxy.say(sotw(pb.CLUSTER), node="p1")
    assert [pb.unpack(r).name for r in proxy.hear().resources] == ["a"]
    proxy.say(sotw(pb.LISTENER))
    assert [pb.unpack(r).name for r in proxy.hear().resources] == ["for-p1"]


def test_who_does_not_ask_for_endpoints_gets_the_rest_all_the_same(
    served: Served, client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ENDPOINTS_REQUEST_SECONDS", 0.2)
    served.resources = [cluster("a", eds=True), endpoints("a", 1)]
    proxy = client()
    proxy.say(delta_request(pb.CLUSTER), node="p1")
    proxy.say(delta_request(pb.LISTENER))
    assert [r.name for r in proxy.hear().resources] == ["a"]
    assert [r.name for r in proxy.hear().resources] == ["for-p1"]


def test_a_stream_without_a_valid_token_is_refused(served: Served, client: Callable[..., Client]) -> None:
    for token in (None, "bad", "", "good2"):
        proxy = client(token=token)
        proxy.say(delta_request(pb.CLUSTER), node="p1")
        assert proxy.refusal()[0] is grpc.StatusCode.UNAUTHENTICATED
    assert served.metric('pilot_xds_refused_streams{reason="unauthenticated"} 4.0')


def test_a_node_cannot_claim_another_identity(served: Served, client: Callable[..., Client]) -> None:
    request = delta_request(pb.CLUSTER)
    request.node.metadata["NAMESPACE"] = "kube-system"
    proxy = client()
    proxy.say(request, node="p1")
    code, details = proxy.refusal()
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert details == "node.metadata NAMESPACE is 'kube-system', the token is of 'shop'"


def test_a_nameless_node_and_an_unknown_type_are_refused(served: Served, client: Callable[..., Client]) -> None:
    nameless, odd = client(), client()
    nameless.say(delta_request(pb.CLUSTER))
    assert nameless.refusal()[0] is grpc.StatusCode.PERMISSION_DENIED
    odd.say(delta_request("clusters, please"), node="p1")
    assert odd.refusal()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_that_is_too_long_is_refused(served: Served, client: Callable[..., Client]) -> None:
    proxy = client()
    proxy.say(delta_request(pb.CLUSTER, *("x" * 1000 + str(n) for n in range(100))), node="p1")
    code, details = proxy.refusal()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the limit is 65536" in details


def test_rejections_are_counted_and_shown(served: Served, client: Callable[..., Client]) -> None:
    served.resources = [cluster("a")]
    proxy = client()
    proxy.say(delta_request(pb.CLUSTER), node="p1")
    proxy.say(delta_request(pb.CLUSTER, nonce=proxy.hear().nonce, error="cannot have a"))
    proxy.say(delta_request(pb.LISTENER))
    proxy.hear()  # read after the rejection
    assert served.metric('pilot_total_xds_rejects{type="cds"} 1.0')
    assert served.metric('pilot_xds{version="delta"} 1.0')
    (connection,) = served.fleet.connections()
    assert connection.session.status()[0].rejection == "cannot have a"


def test_a_client_that_does_not_read_delays_nobody_and_gets_only_the_latest(
    served: Served, client: Callable[..., Client]
) -> None:
    big = range(1, 20_000)
    served.resources = [endpoints("e", *big)]
    stuck = socket.create_connection(served.address.rsplit(":", 1))
    lazy = _silent_stream(stuck)
    reader = client()
    reader.say(delta_request(pb.ENDPOINTS, "e"), node="reader")
    reader.hear()
    lazy()
    for port in range(1, 6):
        served.set(endpoints("e", port, *big))
        (resource,) = reader.hear().resources
        assert pb.unpack(resource.resource) == endpoints("e", port, *big)
    stuck.close()


def _silent_stream(connection: socket.socket) -> Callable[[], None]:
    """A delta stream written by hand over h2 that never reads what it is sent."""
    wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    wire.initiate_connection()
    headers = [
        (":method", "POST"),
        (":path", SERVICE + "DeltaAggregatedResources"),
        (":scheme", "http"),
        (":authority", "control"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", "Bearer good"),
    ]
    wire.send_headers(1, headers)
    request = delta_request(pb.ENDPOINTS, "e")
    request.node.id = "silent"
    body = pb.encode(request)
    wire.send_data(1, b"\x00" + len(body).to_bytes(4, "big") + body)

    def send() -> None:
        connection.sendall(wire.data_to_send())

    return send


def test_a_failing_translation_keeps_the_last_configuration(served: Served, client: Callable[..., Client]) -> None:
    served.resources = [cluster("a")]
    proxy = client()
    proxy.say(delta_request(pb.CLUSTER), node="p1")
    proxy.say(delta_request(pb.CLUSTER, nonce=proxy.hear().nonce))
    served.failing = True
    served.set(cluster("b"))
    newcomer = client()
    newcomer.say(delta_request(pb.CLUSTER), node="p2")
    assert newcomer.refusal()[0] is grpc.StatusCode.INTERNAL
    served.failing = False
    served.set(cluster("a"), cluster("c"))
    assert [r.name for r in proxy.hear().resources] == ["c"]


def test_a_stream_that_ends_leaves_nothing(served: Served, client: Callable[..., Client]) -> None:
    proxy = client()
    proxy.say(delta_request(pb.CLUSTER), node="p1")
    proxy.hear()
    proxy.close()
    done = threading.Event()

    def poll() -> None:
        if served.fleet.connections():
            served.loop.call_later(0.01, poll)
        else:
            done.set()

    served.loop.call_soon_threadsafe(poll)
    assert done.wait(10)
    assert served.metric('pilot_xds{version="delta"} 0.0')


@pytest.mark.parametrize("end", ["cancelled", "refused"])
def test_nothing_of_a_proxy_stays_when_it_has_gone(served: Served, client: Callable[..., Client], end: str) -> None:
    """Nor waits for the garbage collector, which comes when it comes."""
    served.resources = [cluster("a")]
    gc.collect()
    gc.disable()
    try:
        for number in range(3):
            proxy = client()
            proxy.say(delta_request(pb.LISTENER), node=f"p{number}")
            proxy.hear()
            if end == "refused":
                proxy.say(delta_request("no type"))
                assert proxy.refusal()[0] is grpc.StatusCode.INVALID_ARGUMENT
            proxy.close()
        deadline = time.monotonic() + 60
        while (len(served.gone) < 3 or any(one() for one in served.made)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sorted(served.gone) == ["p0", "p1", "p2"]
        assert [one() for one in served.made] == [None, None, None]
    finally:
        gc.enable()
