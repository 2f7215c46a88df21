"""A mesh's files are edited under mixed traffic, one thing at a time: no request is lost.

The control plane reads a folder; a gateway that it configures, with two workers, carries the load. Each round edits the
folder as a person does, file by file, so that a mesh in which a name leads nowhere is not taken. Eight rounds by
default; `make lifecycle` runs fifty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lifecycle.load import Origins, load, origins
from tests.lifecycle.replica import PATIENCE, ROUNDS, replica, terminate
from tests.lifecycle.test_no_request_lost import nothing_lost, report, traffic_flows
from tests.proxy.bootstrap import cluster, dynamic
from tests.proxy.running import eventually, pymesh
from tests.tools.ports import free_ports
from tests.tools.processes import running
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import Origin, origin

Json = dict[str, Any]
#: The clients that ask all the time; the others are waited for in the end.
BUSY = ["http1", "http2", "grpc-unary"]
#: Every kind of change at least once.
TURNS = max(8, ROUNDS)


@pytest.fixture(scope="module", name="behind")
def _behind() -> Iterator[Origins]:
    with origins() as made:
        yield made


def istio(kind: str, name: str, **spec: Any) -> Json:
    metadata = {"name": name, "namespace": "load"}
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def service(host: str, protocol: str, ports: dict[str, int]) -> Json:
    """A service outside of the mesh: version -> the port where it answers."""
    named = [{"number": 80, "name": protocol.lower(), "protocol": protocol}]
    found = [
        {"address": "127.0.0.1", "ports": {protocol.lower(): port}, "labels": {"version": version}}
        for version, port in ports.items()
    ]
    return istio(
        "ServiceEntry", host.partition(".")[0], hosts=[host], ports=named, resolution="STATIC", endpoints=found
    )


def to(host: str, **destination: Any) -> Json:
    return {"destination": {"host": host, **destination}}


@dataclass
class Mesh:
    """What the files say. `edit` writes those whose text has changed, one after the other."""

    folder: Path
    port: int
    other: int
    behind: Origins
    more: Origin
    turn: int = 0
    #: The HTTP service's host, and version -> port.
    host: str = "http.test"
    versions: dict[str, int] = field(default_factory=dict)
    rule: Json = field(default_factory=dict)
    policy: Json = field(default_factory=dict)
    subsets: tuple[str, ...] = ()
    weights: dict[str, int] = field(default_factory=dict)
    hosts: tuple[str, ...] = ("load.test",)
    listens_twice: bool = False

    def files(self) -> dict[str, list[Json]]:
        shares = [{**to(self.host, subset=name), "weight": weight} for name, weight in self.weights.items()]
        http = {
            "headers": {"response": {"set": {"x-turn": str(self.turn)}}},
            "route": shares or [to(self.host)],
            **self.rule,
        }
        rules = [
            {"match": [{"uri": {"prefix": "/load.Echo/"}}], "route": [to("grpc.test")]},
            {"match": [{"uri": {"prefix": "/websocket"}}], "route": [to("websocket.test")]},
            http,
        ]
        subsets = [{"name": name, "labels": {"version": name}} for name in self.subsets]
        servers = [{"port": {"number": self.port, "name": "http", "protocol": "HTTP"}, "hosts": list(self.hosts)}]
        if self.listens_twice:
            servers.append({"port": {"number": self.other, "name": "http-2", "protocol": "HTTP"}, "hosts": ["*"]})
        return {
            "services": [
                service(self.host, "HTTP", self.versions),
                service("grpc.test", "GRPC", {"v1": self.behind.grpc}),
                service("websocket.test", "HTTP", {"v1": self.behind.websocket}),
                service("mirror.test", "HTTP", {"v1": self.more.port}),
            ],
            "policies": [istio("DestinationRule", "http", host=self.host, trafficPolicy=self.policy, subsets=subsets)],
            "routes": [istio("VirtualService", "load", hosts=list(self.hosts), gateways=["edge"], http=rules)],
            "gateway": [istio("Gateway", "edge", selector={"istio": "ingressgateway"}, servers=servers)],
        }

    def edit(self) -> None:
        """Each file is replaced whole, as editors do; between two of them the mesh may be none."""
        for name, documents in self.files().items():
            text = "---\n".join(yaml.safe_dump(one) for one in documents)
            path = self.folder / f"{name}.yaml"
            if not path.exists() or path.read_text() != text:
                new = self.folder / f".{name}"
                new.write_text(text)
                new.replace(path)


def weights(mesh: Mesh) -> None:
    """Two versions, and more of one of them each time."""
    mesh.versions = {"v1": mesh.behind.http, "v2": mesh.more.port}
    mesh.subsets = ("v1", "v2")
    share = 10 + mesh.turn * 7 % 80
    mesh.weights = {"v1": 100 - share, "v2": share}


def subset_removed(mesh: Mesh) -> None:
    mesh.weights, mesh.subsets = {"v1": 100}, ("v1",)


def endpoints(mesh: Mesh) -> None:
    """Another endpoint in place of the one that served. Before it goes, nobody asks for its version any more."""
    mesh.weights, mesh.subsets = {}, ()
    mesh.edit()
    mesh.versions = {"v2": mesh.more.port} if mesh.versions.get("v1") else {"v1": mesh.behind.http}


def policies(mesh: Mesh) -> None:
    """Everything that a DestinationRule says of connections, balancing and outliers."""
    mesh.policy = {
        "loadBalancer": {"simple": ("ROUND_ROBIN", "LEAST_REQUEST", "RANDOM")[mesh.turn % 3]},
        "connectionPool": {
            "tcp": {"maxConnections": 200 + mesh.turn, "connectTimeout": "5s"},
            "http": {"http1MaxPendingRequests": 500 + mesh.turn, "maxRequestsPerConnection": 50 + mesh.turn},
        },
        "outlierDetection": {"consecutive5xxErrors": 5 + mesh.turn, "interval": "10s"},
    }


def route_policies(mesh: Mesh) -> None:
    """Retries, timeouts and mirrors."""
    mesh.rule = {
        "timeout": f"{20 + mesh.turn}s",
        "retries": {"attempts": 1 + mesh.turn % 3, "retryOn": "connect-failure,refused-stream", "perTryTimeout": "15s"},
        "mirrors": [{"destination": {"host": "mirror.test"}, "percentage": {"value": 50}}] if mesh.turn % 2 else [],
    }


def listeners(mesh: Mesh) -> None:
    """Another port, or none."""
    mesh.listens_twice = not mesh.listens_twice


def hosts(mesh: Mesh) -> None:
    """The gateway takes another host beside the one that is asked for."""
    mesh.hosts = ("load.test", f"host-{mesh.turn}.test")


def renamed(mesh: Mesh) -> None:
    """The service has another name, in three files."""
    mesh.host = f"http-{mesh.turn}.test"


CHANGES: list[Callable[[Mesh], None]] = [
    weights, policies, renamed, route_policies, listeners, subset_removed, hosts, endpoints,
]  # fmt: skip


def test_edits_of_a_mesh(behind: Origins, tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    folder.mkdir()
    port, other, admin, control, control_admin = free_ports(5)
    words = [*pymesh(), "control", "--config", str(folder), "--state", str(tmp_path / "state"), "--insecure-xds"]
    words += ["--listen", f"127.0.0.1:{control}", "--admin", f"127.0.0.1:{control_admin}", "--access-log", "OFF"]
    made = dynamic("DELTA_GRPC", cluster("control", [control], http2=True), admin)
    made["node"] = {
        "id": "router~127.0.0.1~edge-1.load~load.svc.cluster.local",
        "cluster": "edge",
        "metadata": {"NAMESPACE": "load", "LABELS": {"istio": "ingressgateway"}},
    }
    with ExitStack() as stack:
        more = stack.enter_context(origin("more"))
        mesh = Mesh(folder, port, other, behind, more, versions={"v1": behind.http})
        mesh.edit()
        stack.enter_context(running(words, title="control", ports=[control], timeout=PATIENCE))
        proxy = stack.enter_context(replica(tmp_path, made, "--concurrency", "2", ready=[port]))

        def arrived() -> bool:
            """Whichever worker is asked, it has what was written last."""
            turns = {fetch(port, Request("GET", "/", "load.test")).header("x-turn") for _ in range(8)}
            return turns == {str(mesh.turn)}

        assert eventually(arrived, PATIENCE), proxy.tail()
        with load([port]) as tally:
            traffic_flows(tally)
            for turn in range(1, TURNS + 1):
                mesh.turn = turn
                change = CHANGES[(turn - 1) % len(CHANGES)]
                change(mesh)
                mesh.edit()
                assert eventually(arrived, PATIENCE), f"{change.__name__}\n{proxy.tail()}"
                traffic_flows(tally, BUSY)
            traffic_flows(tally)
        nothing_lost(tally)
        assert more.requests
        report("edits of a mesh's files", tally, TURNS)
        terminate(proxy)
