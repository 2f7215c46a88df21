"""The kubelet's questions, asked of the application from where no policy of the mesh stands in between.

What is asked is what the pod's author wrote (`pymesh.control.injection.probes`), and what an answer means is what the
kubelet would have made of it: HTTP is well from 200 to 399, with redirections followed on the same host; TCP is well
if a connection opens; gRPC if `grpc.health.v1.Health/Check` says SERVING. A kubelet hears 200 or 503; of HTTP the
status.

The application is called at the pod's address, as the kubelet calls it, from the address by which the capture rules
know a proxy's last leg.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Where the last leg comes from (`pymesh.capture.rules`), by version of IP.
_FROM = {False: "127.0.0.6", True: "::6"}
#: As the kubelet's.
_MOST_REDIRECTS = 10
_LONGEST_BODY = 10 * 1024
_BAD = HTTPStatus.SERVICE_UNAVAILABLE

Probe = Mapping[str, Any]


class ProbeError(Exception):
    """The application is not well: why."""


def serve(probes: Mapping[str, Probe], address: str, port: int) -> int:
    """Answers from now on, on a thread of its own, for as long as the process lives; the port."""
    server = _Server(("::" if ":" in address else "", port), _Handler)
    server.probes, server.application = probes, address
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return int(server.server_address[1])


def ask(probe: Probe, address: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """The status to answer with, and why. Raises :class:`ProbeError`."""
    seconds = float(probe.get("timeoutSeconds") or 1)
    try:
        if "httpGet" in probe:
            return _http(probe["httpGet"], address, seconds, headers)
        if "tcpSocket" in probe:
            _connected(address, int(probe["tcpSocket"]["port"]), seconds).close()
            return HTTPStatus.OK, b""
        return _grpc(probe["grpc"], address, seconds)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ProbeError(f"{type(error).__name__}: {error}") from error


def _connected(address: str, port: int, seconds: float) -> socket.socket:
    return socket.create_connection((address, port), seconds, source_address=(_FROM[":" in address], 0))


class _Connection(http.client.HTTPConnection):
    """HTTP on a connection that is there already."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        super().__init__(host)
        self.sock = sock

    def connect(self) -> None:
        raise http.client.NotConnected("the application has closed the connection")


def _http(action: Mapping[str, Any], address: str, seconds: float, headers: Mapping[str, str]) -> tuple[int, bytes]:
    port, scheme = int(action["port"]), str(action.get("scheme") or "HTTP").lower()
    authority = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    sent = {"User-Agent": headers.get("user-agent", "kube-probe"), "Accept": "*/*", "Connection": "close"}
    for one in action.get("httpHeaders") or ():
        # The kubelet's rule: a header without a value is one that is not sent.
        name, value = str(one["name"]), str(one.get("value", ""))
        sent = {known: text for known, text in sent.items() if known.lower() != name.lower()}
        if value:
            sent[name] = value
    url = f"{scheme}://{authority}/{str(action.get('path') or '/').removeprefix('/')}"
    for _ in range(_MOST_REDIRECTS + 1):
        parts = urllib.parse.urlsplit(url)
        sock = _connected(address, parts.port or (443 if parts.scheme == "https" else 80), seconds)
        try:
            status, location, body = _exchange(sock, parts, sent, seconds)
        finally:
            sock.close()
        if location is None or not 300 <= status < 400:
            return status, body
        url = urllib.parse.urljoin(url, location)
        if urllib.parse.urlsplit(url).hostname != parts.hostname:
            # Elsewhere is not the application: the kubelet takes it for well, with a warning.
            return HTTPStatus.OK, b"redirected to another host\n"
    raise ProbeError(f"more than {_MOST_REDIRECTS} redirections")


def _exchange(
    sock: socket.socket, parts: urllib.parse.SplitResult, headers: Mapping[str, str], seconds: float
) -> tuple[int, str | None, bytes]:
    sock.settimeout(seconds)
    if parts.scheme == "https":
        # As the kubelet: who answers is not asked to prove who it is.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    with sock:
        connection = _Connection(sock, parts.netloc)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request("GET", target, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.getheader("location"), answer.read(_LONGEST_BODY)


def _grpc(action: Mapping[str, Any], address: str, seconds: float) -> tuple[int, bytes]:
    from pymesh.pod import grpc_health  # few applications have such a probe, and it needs HTTP/2

    with _connected(address, int(action["port"]), seconds) as sock:
        sock.settimeout(seconds)
        problem = grpc_health.check(sock, f"{address}:{action['port']}", str(action.get("service") or ""))
    if problem:
        raise ProbeError(problem)
    return HTTPStatus.OK, b""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    probes: Mapping[str, Probe] = {}
    application = ""

    def server_bind(self) -> None:
        self.address_family = socket.AF_INET6 if ":" in str(self.server_address[0]) else socket.AF_INET
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """A probe, by its path."""
        server = self.server
        assert isinstance(server, _Server)
        probe = server.probes.get(self.path)
        if probe is None:
            self._answer(HTTPStatus.NOT_FOUND, b"there is no such probe\n")
            return
        try:
            status, body = ask(probe, server.application, {"user-agent": self.headers.get("user-agent", "kube-probe")})
        except ProbeError as error:
            status, body = _BAD, f"{error}\n".encode()
        # A status that says nothing to a kubelet, or would keep it waiting.
        self._answer(status if 200 <= status < 600 else _BAD, body)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """A probe a second is no news."""
