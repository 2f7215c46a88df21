"""Probes: as the pod's author wrote them they become the sidecar's, which asks the application as a kubelet would."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import grpc
import pytest

from pymesh.control.injection.inject import inject
from pymesh.pod import probes
from tests.injection.pods import SETTINGS, Json, named, pod
from tests.tools.certificates import Authority


def probed(container: Json) -> tuple[Json, Json]:
    """The container with its probes as they are now, and what the sidecar is told of them."""
    made = inject(pod(container=container), SETTINGS)
    told = {one["name"]: one.get("value", "") for one in named(made, "istio-proxy")["env"]}
    return named(made, "web"), json.loads(told.get("ISTIO_KUBE_APP_PROBERS", "{}"))


def test_each_kind_is_asked_over_http_and_keeps_its_times() -> None:
    http_probe = {"httpGet": {"path": "/healthz?deep=1", "port": "http"}, "periodSeconds": 7, "timeoutSeconds": 3}
    container, told = probed(
        {
            "readinessProbe": http_probe,
            "livenessProbe": {"tcpSocket": {"port": 5432}, "failureThreshold": 9},
            "startupProbe": {"grpc": {"port": 9000, "service": "shop"}},
        }
    )
    assert container["readinessProbe"] == {
        "httpGet": {"path": "/app-health/web/readyz", "port": 15020, "scheme": "HTTP"},
        "periodSeconds": 7,
        "timeoutSeconds": 3,
    }
    assert container["livenessProbe"]["httpGet"]["path"] == "/app-health/web/livez"
    assert container["livenessProbe"]["failureThreshold"] == 9
    assert "tcpSocket" not in container["livenessProbe"]
    assert told == {
        "/app-health/web/readyz": {
            "httpGet": {"path": "/healthz?deep=1", "port": 8080, "scheme": "HTTP"},
            "timeoutSeconds": 3,
        },
        "/app-health/web/livez": {"tcpSocket": {"port": 5432}, "timeoutSeconds": 1},
        "/app-health/web/startupz": {"grpc": {"port": 9000, "service": "shop"}, "timeoutSeconds": 1},
    }


def test_hooks_over_http_are_asked_the_same_way() -> None:
    hooks = {"preStop": {"httpGet": {"path": "/bye", "port": 8080}}, "postStart": {"exec": {"command": ["true"]}}}
    container, told = probed({"lifecycle": hooks})
    assert container["lifecycle"]["preStop"]["httpGet"]["path"] == "/app-lifecycle/web/prestopz"
    assert container["lifecycle"]["postStart"] == {"exec": {"command": ["true"]}}
    assert told == {"/app-lifecycle/web/prestopz": {"httpGet": {"path": "/bye", "port": 8080, "scheme": "HTTP"}}}


def test_what_asks_nobody_in_the_pod_is_left_alone() -> None:
    elsewhere = {"httpGet": {"host": "10.0.0.1", "port": 80}}
    container, told = probed({"livenessProbe": {"exec": {"command": ["true"]}}, "readinessProbe": elsewhere})
    assert container["readinessProbe"] == elsewhere
    assert container["livenessProbe"] == {"exec": {"command": ["true"]}}
    assert told == {}


def test_a_pod_may_keep_its_probes() -> None:
    given = pod(
        metadata={"annotations": {"sidecar.istio.io/rewriteAppHTTPProbers": "false"}},
        container={"livenessProbe": {"httpGet": {"port": 8080}}},
    )
    kept = {"livenessProbe": {"httpGet": {"port": 8080}}}
    assert inject(given, SETTINGS)["spec"]["containers"][0].items() >= kept.items()


class Application(BaseHTTPRequestHandler):
    """Answers by path, and remembers who asked for what."""

    seen: ClassVar[list[tuple[str, str, dict[str, str]]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.client_address[0], self.path, {k.lower(): v for k, v in self.headers.items()}))
        found = {
            "/well": (200, {}),
            "/created?x=1": (201, {}),
            "/ill": (500, {}),
            "/moved": (302, {"location": "/well"}),
            "/moved-to-ill": (307, {"location": "/ill"}),
            "/moved-away": (302, {"location": "http://elsewhere.example/ill"}),
            "/round": (302, {"location": "/round"}),
            "/moved-nowhere": (302, {"location": ""}),
            "/choices": (300, {"location": "/ill"}),
            "/not-modified": (304, {"location": "/ill"}),
            "/moved-by-mail": (302, {"location": "mailto://127.0.0.1/ill"}),
            "/a%20b": (200, {}),
            "/gesund/%C3%BC?w=%C3%BC": (200, {}),
        }
        status, headers = found.get(self.path, (404, {}))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@contextmanager
def application(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """An application on loopback; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Application)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    Application.seen = []
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[tuple[int, list[bytes]]]:
    """An application that answers its first request octet by octet; its port, and what it was asked."""
    seen: list[bytes] = []

    def once() -> None:
        with listening.accept()[0] as client:
            seen.append(client.recv(65536))
            try:
                answer(client)
            except OSError:
                pass  # nobody waits for it any more

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=once)
        thread.start()
        yield listening.getsockname()[1], seen
        thread.join()


def asked(told: Json, path: str = "/app-health/web/readyz", agent: str = "kube-probe/1.37") -> tuple[int, str]:
    """What a kubelet hears from the sidecar."""
    port = probes.serve(told, "127.0.0.1", 0)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"user-agent": agent})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def http_get(path: str, port: int, **more: Any) -> Json:
    """What the sidecar is told of one readiness probe."""
    return {"/app-health/web/readyz": {"httpGet": {"path": path, "port": port, **more}, "timeoutSeconds": 10}}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/well", 200), ("well", 200), ("/created?x=1", 201), ("/ill", 500), ("/nowhere", 404),
        ("/moved", 200), ("/moved-to-ill", 500), ("/moved-away", 200), ("/round", 503),
        ("/moved-nowhere", 302), ("/choices", 300), ("/not-modified", 304), ("/moved-by-mail", 503),
        ("/a b", 200), ("/a%20b", 200), ("/gesund/ü?w=ü", 200), ("/well#part", 200),
    ],
)  # fmt: skip
def test_http_is_judged_as_by_a_kubelet(path: str, status: int) -> None:
    with application() as port:
        assert asked(http_get(path, port))[0] == status


def test_the_application_is_asked_from_where_no_policy_stands_in_between() -> None:
    headers = [{"name": "X-Who", "value": "me"}, {"name": "accept", "value": ""}, {"name": "Host", "value": "web"}]
    with application() as port:
        asked(http_get("/well", port, httpHeaders=headers))
        address, _, seen = Application.seen[0]
    assert address == "127.0.0.6"
    assert seen["x-who"] == "me"
    assert seen["host"] == "web"
    assert seen["user-agent"] == "kube-probe/1.37"
    assert "accept" not in seen


def test_headers_are_sent_as_a_kubelet_sends_them() -> None:
    headers = [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}, {"name": "X-B", "value": "日"}]
    headers += [{"name": "X-C", "value": ""}, {"name": "X-D"}, {"name": "User-Agent", "value": ""}]
    with answering(lambda client: client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")) as (port, seen):
        assert asked(http_get("/", port, httpHeaders=headers))[0] == 200
    lines = seen[0].decode().split("\r\n")
    assert lines == [
        *("GET / HTTP/1.1", f"Host: 127.0.0.1:{port}", "Accept: */*"),
        *("X-A: 1", "x-a: 2", "X-B: 日", "X-C: ", "X-D: ", "Connection: close", "", ""),
    ]


def test_whoever_asks_says_nothing_to_the_application_and_hears_nothing_of_it() -> None:
    """Anybody can ask, whatever policies say of the application's own port."""
    secret = b"HTTP/1.1 500 No\r\ncontent-length: 6\r\n\r\nsecret"
    with answering(lambda client: client.sendall(secret)) as (port, seen):
        assert asked(http_get("/", port), agent="${jndi:ldap://a.example}") == (500, "")
    assert b"\r\nUser-Agent: kube-probe\r\n" in seen[0]


def test_over_tls_whoever_answers_is_believed(authority: Authority) -> None:
    issued = authority.issue("not-this-name", dns=["not-this-name"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.chain, issued.key)
    with application(context) as port:
        assert asked(http_get("/well", port, scheme="HTTPS"))[0] == 200
        assert asked(http_get("/well", port))[0] == 503


def test_tcp_is_well_if_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        told = {"/app-health/web/livez": {"tcpSocket": {"port": port}}}
        assert asked(told, "/app-health/web/livez")[0] == 200
    status, why = asked(told, "/app-health/web/livez")
    assert (status, "refused" in why) == (503, True)


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [(b"\x08\x01", 200, ""), (b"\x08\x02", 503, "NOT_SERVING"), (b"", 503, "UNKNOWN"), (None, 503, "grpc-status 5")],
)
def test_grpc_is_well_if_it_says_so(answer: bytes | None, status: int, why: str) -> None:
    requests: list[bytes] = []

    def check(request: bytes, context: grpc.ServicerContext) -> bytes:
        requests.append(request)
        if answer is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return answer or b""

    server = grpc.server(futures.ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(check)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        told = {"/app-health/web/livez": {"grpc": {"port": port, "service": "shop"}, "timeoutSeconds": 20}}
        found, said = asked(told, "/app-health/web/livez")
    finally:
        server.stop(None).wait()
    assert (found, why in said) == (status, True)
    assert requests == [b"\x0a\x04shop"]


def test_nothing_else_of_the_application_can_be_asked_for() -> None:
    with application() as port:
        told = http_get("/well", port)
        for path in ("/", "/well", "/app-health/web/livez", "/app-health/web/readyz?x", "/app-health/web/readyz/../x"):
            assert asked(told, path)[0] == 404
        assert Application.seen == []


def test_an_application_that_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told = {"/p": {"httpGet": {"path": "/", "port": listening.getsockname()[1]}, "timeoutSeconds": 1}}
        status, why = asked(told, "/p")
    assert (status, "timed out" in why) == (503, True)


@pytest.mark.parametrize(
    "piece", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + b"x"]
)
def test_an_answer_that_comes_little_by_little_is_not_waited_for(piece: bytes) -> None:
    def drip(client: socket.socket) -> None:
        client.sendall(piece)
        for _ in range(100):
            client.sendall(piece[-1:] if b"200" in piece else piece)
            time.sleep(0.1)

    with answering(drip) as (port, _):
        told = {"/p": {"httpGet": {"path": "/", "port": port}, "timeoutSeconds": 1}}
        status, why = asked(told, "/p")
    assert (status, "timed out" in why) == (503, True)


def test_a_hook_takes_its_time() -> None:
    """The kubelet waits for it until the pod's time is over: an application may drain in it."""

    def slowly(client: socket.socket) -> None:
        time.sleep(1.5)
        client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with answering(slowly) as (port, _):
        _, told = probed({"lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": port}}}})
        assert asked(told, "/app-lifecycle/web/prestopz")[0] == 200


def test_a_hook_that_nobody_answers_is_not_answered() -> None:
    """To a kubelet any answer is a hook that was run."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    told = {"/app-lifecycle/web/poststartz": {"httpGet": {"path": "/", "port": port}}}
    with pytest.raises(http.client.RemoteDisconnected):
        asked(told, "/app-lifecycle/web/poststartz")


def test_who_connects_and_is_silent_makes_room() -> None:
    """The port is everybody's, and the threads and descriptors are the proxy's."""
    with application() as application_port:
        told = http_get("/well", application_port)
        port = probes.serve(told, "127.0.0.1", 0)
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/app-health/web/readyz", headers={"user-agent": "kube-probe/1.37"})
        assert connection.getresponse().status == 200
        connection.close()
        silent[0].settimeout(20)
        assert silent[0].recv(1) == b""
        silent[200].settimeout(20)
        assert silent[200].recv(1) == b""
        # Those that were turned away end a moment later.
        end = time.monotonic() + 20
        while threading.active_count() - before > 66 and time.monotonic() < end:
            time.sleep(0.01)
        assert threading.active_count() - before <= 66
        for one in silent:
            one.close()


def test_ipv6_without_capture() -> None:
    """The address ::6 is there only where capture has put it."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        port = listening.getsockname()[1]
        assert probes.ask({"tcpSocket": {"port": port}}, "::1", "kube-probe") == (200, b"")


def test_ipv6_authorities_are_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "pymesh.pod.grpc_health.check", lambda sock, authority, service, left: asked.append(authority) or ""
    )
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        port = listening.getsockname()[1]
        probes.ask({"grpc": {"port": port}}, "::1", "kube-probe")
    assert asked == [f"[::1]:{port}"]
