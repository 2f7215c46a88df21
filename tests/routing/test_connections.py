"""TCP and TLS routes of both standards: which service a connection reaches, by port, address and server name."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.routing.mesh import GATEWAYS, Document, document, running
from tests.tools.hello import client_hello
from tests.tools.ports import free_ports

#: Port, address, server name -> who says its name; nobody: the connection is closed.
WANTED = {
    ("tcp", "127.0.0.1", ""): "b",
    ("tcp", "127.0.0.2", ""): "a",
    ("tcp", "127.0.0.9", ""): "c",
    ("tls", "127.0.0.1", "a.example"): "a",
    ("tls", "127.0.0.2", "a.example"): "b",
    ("tls", "127.0.0.1", "deep.a.example"): "c",
    ("tls", "127.0.0.1", "other.test"): "",
    ("tls", "127.0.0.1", ""): "",
    # The closest network is chosen before the name is looked at, and there is no such name in it.
    ("tls", "127.0.0.2", "x.example"): "",
    ("tcp-route", "127.0.0.1", ""): "b",
    ("tls-route", "127.0.0.1", "a.example"): "a",
    ("tls-route", "127.0.0.1", "x.example"): "b",
    ("tls-route", "127.0.0.1", "other.test"): "",
}


def test_where_connections_go(tmp_path: Path) -> None:
    names = ("tcp", "tls", "tcp-route", "tls-route")
    ports = {kind: dict(zip(names, free_ports(len(names)), strict=True)) for kind in GATEWAYS}
    first = {kind: ports[kind]["tcp"] for kind in GATEWAYS}
    rest = [port for known in ports.values() for name, port in known.items() if name != "tcp"]
    with running(tmp_path, _documents(ports), first, *rest, protocol="tcp"):
        for kind in GATEWAYS:
            found = {
                (name, address, server_name): _asked(ports[kind][name], address, server_name)
                for name, address, server_name in WANTED
            }
            assert found == WANTED, kind


def _asked(port: int, address: str, server_name: str) -> str:
    with socket.create_connection((address, port), 20) as connection:
        # The services speak first, but who tells connections apart by name waits for it.
        connection.sendall(client_hello(server_name or None))
        try:
            return connection.recv(100).decode()
        except ConnectionResetError:
            return ""


def _documents(ports: dict[str, dict[str, int]]) -> list[Document]:
    found = []
    for kind, known in ports.items():
        servers: list[Document] = [
            {"port": {"number": known["tcp"], "protocol": "TCP", "name": "tcp"}, "hosts": ["*"]},
            {
                "port": {"number": known["tls"], "protocol": "TLS", "name": "tls"},
                "hosts": ["*.example"],
                "tls": {"mode": "PASSTHROUGH"},
            },
        ]
        listeners: list[Document] = [
            {"name": "tcp", "port": known["tcp-route"], "protocol": "TCP"},
            {
                "name": "tls",
                "port": known["tls-route"],
                "protocol": "TLS",
                "hostname": "*.example",
                "tls": {"mode": "Passthrough"},
            },
        ]
        found.append(document("Gateway", f"istio-{kind}", {"selector": {"gateway": kind}, "servers": servers}))
        found.append(document("Gateway", kind, {"gatewayClassName": "pymesh", "listeners": listeners}))
    gateways = [f"istio-{kind}" for kind in ports]
    tcp = [
        {"match": [{"sourceNamespace": "elsewhere"}], **_to("a")},
        {"match": [{"destinationSubnets": ["127.0.0.2"]}], **_to("a")},
        {"match": [{"destinationSubnets": ["127.0.0.0/30"], "sourceLabels": {"tier": "edge"}}], **_to("b")},
        {"match": [{"port": 1}], **_to("a")},
        _to("c"),
    ]
    tls = [
        {"match": [{"sniHosts": ["a.example"], "destinationSubnets": ["127.0.0.2/32"]}], **_to("b")},
        {"match": [{"sniHosts": ["a.example"]}], **_to("a")},
        {"match": [{"sniHosts": ["*.example"]}], **_to("c")},
    ]
    found.append(document("VirtualService", "tcp", {"hosts": ["tcp.test"], "gateways": gateways, "tcp": tcp}))
    found.append(document("VirtualService", "tls", {"hosts": ["*.example"], "gateways": gateways, "tls": tls}))
    parents: list[Document] = [{"name": kind} for kind in ports]
    shares = [{"name": "a", "port": 80, "weight": 0}, {"name": "b", "port": 80, "weight": 5}]
    found.append(document("TCPRoute", "tcp", {"parentRefs": parents, "rules": [{"backendRefs": shares}]}))
    for name, host in (("a", "a.example"), ("b", "*.example")):
        spec = {"parentRefs": parents, "hostnames": [host], "rules": [{"backendRefs": [{"name": name, "port": 80}]}]}
        found.append(document("TLSRoute", name, spec))
    return found


def _to(name: str) -> Document:
    return {"route": [{"destination": {"host": name}}]}
