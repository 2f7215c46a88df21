"""What is spoken at a port, by what a Service says of it."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import build


@pytest.mark.parametrize(
    ("port", "protocol"),
    [
        ("name: http", "HTTP"),
        ("name: http-admin", "HTTP"),
        ("name: httpx", "AUTO"),
        ("name: grpc-web", "GRPC"),
        ("name: tcp-db, appProtocol: http", "HTTP"),
        ("appProtocol: HTTP2", "HTTP2"),
        ("appProtocol: grpc-web", "GRPC"),
        ("appProtocol: http-alt", "HTTP"),
        ("appProtocol: kubernetes.io/h2c", "HTTP2"),
        ("appProtocol: kubernetes.io/ws", "HTTP"),
        ("appProtocol: kubernetes.io/wss", "HTTPS"),
        ("name: http, appProtocol: example.com/http-alt", "AUTO"),
        ("name: mysql", "TCP"),
        ("name: web", "AUTO"),
        ("port: 3306, name: web", "TCP"),
        ("port: 3306, name: http", "HTTP"),
    ],
)
def test_a_port_says_what_is_spoken_there(port: str, protocol: str) -> None:
    written = port if port.startswith("port") else f"port: 80, {port}"
    text = f"apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{{written}}}]}}\n"
    store, _ = build(load_text("f", text, Report()))
    (service,) = store.services.values()
    assert service.ports[0].protocol == protocol


@pytest.mark.parametrize(
    ("written", "protocol"),
    [("HTTP", "HTTP"), ("http", "HTTP"), ("Grpc-Web", "GRPC"), ("MONGO", "TCP"), ("redis", "TCP"), ("mysql", "TCP")],
)
def test_istios_ports_say_it_in_any_case(written: str, protocol: str) -> None:
    head = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\n"
    port = f"{{number: 80, name: x, protocol: {written}}}"
    report = Report()
    resources = load_text("f", f"{head}spec: {{hosts: [a.example], resolution: DNS, ports: [{port}]}}\n", report)
    assert not report.diagnostics
    store, _ = build(resources)
    assert store.services["a.example"].ports[0].protocol == protocol
