"""Endpoints come, drain and go while requests and connections are under way: ours and Envoy, side by side.

Whatever happens to one endpoint costs no connection to another, and one that drains keeps those that it has.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.proxy.controlled import Counted, controlled, write
from tests.proxy.running import eventually
from tests.tools.ports import free_port

ADDRESSES = {"first": "127.78.0.1", "second": "127.78.0.2", "third": "127.78.0.3"}
DRAINS = "ready: false, serving: true, terminating: true"
PATIENCE = 120

MESH = """
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{ports: [{{name: http, port: 80}}, {{name: tcp, port: 81}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: web, namespace: shop}}
spec: {{host: web, trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}}}}}
"""
EDGE = """
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {kind}, namespace: shop}}
spec:
  selector: {{proxy: {kind}}}
  servers:
    - {{port: {{number: {http}, name: http, protocol: HTTP}}, bind: 127.0.0.1, hosts: ["*"]}}
    - {{port: {{number: {tcp}, name: tcp, protocol: TCP}}, bind: 127.0.0.1, hosts: ["*"]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {kind}, namespace: shop}}
spec:
  hosts: ["*"]
  gateways: [{kind}]
  http: [{{route: [{{destination: {{host: web, port: {{number: 80}}}}}}]}}]
  tcp: [{{route: [{{destination: {{host: web, port: {{number: 81}}}}}}]}}]
"""


def slices(port: int, **conditions: str) -> str:
    """A slice for each endpoint, with what is said of it."""
    return "".join(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        f"metadata: {{name: web-{name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n"
        f"addressType: IPv4\nports: [{{name: http, port: {port}}}, {{name: tcp, port: {port}}}]\n"
        f"endpoints: [{{addresses: [{ADDRESSES[name]}], targetRef: {{name: {name}}}, conditions: {{{said}}}}}]\n"
        for name, said in conditions.items()
    )


def ask(connection: http.client.HTTPConnection) -> str:
    """Who answers."""
    connection.request("GET", "/", headers={"host": "any.test"})
    answer = connection.getresponse()
    body = answer.read().decode()
    return body.split()[0] if answer.status == 200 else str(answer.status)


def told(end: socket.socket) -> str:
    """Who is at the other end of a connection that is passed on."""
    end.sendall(b"GET / HTTP/1.1\r\nhost: tcp\r\n\r\n")
    seen = b""
    while b"tcp\n" not in seen:
        piece = end.recv(4096)
        if not piece:
            return "nobody"
        seen += piece
    return seen.partition(b"\r\n\r\n")[2].split()[0].decode()


def _sees(client: http.client.HTTPConnection, wanted: Callable[[set[str]], bool]) -> bool:
    return wanted({ask(client) for _ in range(9)})


def test_endpoints_come_drain_and_go(tmp_path: Path) -> None:
    kinds = ("pymesh", "envoy")
    ports = {kind: {"http": free_port(), "tcp": free_port()} for kind in kinds}
    origin = free_port()
    with ExitStack() as stack:
        served = {
            name: stack.enter_context(Counted(name, address, origin).serving()) for name, address in ADDRESSES.items()
        }
        write(tmp_path, "mesh.yaml", MESH.format() + "".join(EDGE.format(kind=kind, **ports[kind]) for kind in kinds))
        write(tmp_path, "slices.yaml", slices(origin, first="", second=""))
        for kind in kinds:
            node = f"router~127.0.0.1~{kind}.shop~shop.svc.cluster.local"
            stack.enter_context(controlled(kind, tmp_path, node, {"proxy": kind}))

        def listens(kind: str) -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", ports[kind]["tcp"])) == 0

        assert all(eventually(partial(listens, kind), PATIENCE) for kind in kinds)
        clients = [http.client.HTTPConnection("127.0.0.1", ports[kind]["http"], timeout=60) for kind in kinds]
        for client in clients:
            stack.callback(client.close)

        def both(*names: str) -> bool:
            return all(eventually(partial(_sees, client, set(names).__eq__), PATIENCE) for client in clients)

        assert both("first", "second")
        passed: dict[tuple[str, str], socket.socket] = {}
        for kind in kinds:
            while {name for of, name in passed if of == kind} != {"first", "second"}:
                end = stack.enter_context(socket.create_connection(("127.0.0.1", ports[kind]["tcp"]), 60))
                passed.setdefault((kind, told(end)), end)

        def stays(*names: str) -> None:
            for (kind, name), end in passed.items():
                if name in names:
                    assert told(end) == name, kind

        held = {name: one.connections for name, one in served.items()}
        write(tmp_path, "slices.yaml", slices(origin, first="", second="", third=""))
        assert both("first", "second", "third")
        assert (served["first"].connections, served["second"].connections) == (held["first"], held["second"])
        stays("first", "second")

        write(tmp_path, "slices.yaml", slices(origin, first="", second=DRAINS, third=""))
        assert both("first", "third")
        stays("first", "second")

        held = {name: one.connections for name, one in served.items()}
        write(tmp_path, "slices.yaml", slices(origin, first="", third=""))
        assert both("first", "third")
        assert served["first"].connections == held["first"]
        assert served["third"].connections == held["third"]
        stays("first")
        assert [client.sock is not None for client in clients] == [True, True]
