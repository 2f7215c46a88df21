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
        ("name: httpx", "TCP"),
        ("name: grpc-web", "GRPC"),
        ("name: tcp-db, appProtocol: http", "HTTP"),
        ("appProtocol: HTTP2", "HTTP2"),
        ("appProtocol: grpc-web", "GRPC"),
        ("appProtocol: http-alt", "HTTP"),
        ("appProtocol: kubernetes.io/h2c", "HTTP2"),
        ("appProtocol: kubernetes.io/ws", "HTTP"),
        ("appProtocol: kubernetes.io/wss", "HTTPS"),
        ("name: http, appProtocol: example.com/http-alt", "TCP"),
        ("name: mysql", "TCP"),
        ("name: web", "TCP"),
    ],
)
def test_a_port_says_what_is_spoken_there(port: str, protocol: str) -> None:
    text = f"apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: 80, {port}}}]}}\n"
    store, _ = build(load_text("f", text, Report()))
    (service,) = store.services.values()
    assert service.ports[0].protocol == protocol
