"""The kubelet's questions, asked of the application from where no policy of the mesh stands in between.

What is asked is what the pod's author wrote (`pymesh.control.injection.probes`), and what an answer means is what the
kubelet would have made of it: HTTP is well from 200 to 399, with redirections followed on the same host; TCP is well
if a connection opens; gRPC if `grpc.health.v1.Health/Check` says SERVING. A kubelet hears 200 or 503; of HTTP the
status. To a hook any answer is good, at whatever time; so that a kubelet hears of one that got none, it gets none.

The application is called at the pod's address, as the kubelet calls it, from the address by which the capture rules
know a proxy's last leg. Whoever reaches the port can ask, past all policies: of what the application says he hears
nothing but the status, and to the application he says nothing of his own.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Where the last leg comes from (`pymesh.capture.rules`), by version of IP.
_FROM = {False: "127.0.0.6", True: "::6"}
#: As the kubelet's.
_MOST_REDIRECTS = 10
_LONGEST_BODY = 10 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_BAD = HTTPStatus.SERVICE_UNAVAILABLE
#: Connections that have not said what they want. Each is a thread and a descriptor of the proxy's own process.
_MOST_WAITING = 64
#: Where hooks of a container's life are asked for.
_HOOKS = "/app-lifecycle/"
_AGENT = "kube-probe"
#: What a kubelet calls itself.
_KNOWN_AGENT = re.compile(r"kube-probe/[0-9A-Za-z.+-]{1,64}")
#: What a path may have as it is; an escape stays one.
_SAFE = "/%:@!$&'()*+,;=?[]"

Probe = Mapping[str, Any]
Header = tuple[str, str]


class ProbeError(Exception):
    """The application is not well: why."""


class Deadline:
    """All that is done for an answer has to be done by then, however little of it each step takes."""

    def __init__(self, seconds: float | None) -> None:
        """None: whenever it is done."""
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds, for a socket. Raises ``TimeoutError``."""
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


def serve(probes: Mapping[str, Probe], address: str, port: int) -> int:
    """Answers from now on, on a thread of its own, for as long as the process lives; the port."""
    server = _Server(("::" if ":" in address else "", port), _Handler)
    server.probes, server.application = probes, address
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return int(server.server_address[1])


def ask(probe: Probe, address: str, agent: str, *, is_hook: bool = False) -> tuple[int, bytes]:
    """The status to answer with, and why. Raises :class:`ProbeError`."""
    # A kubelet waits for a hook until the pod's time is over.
    deadline = Deadline(None if is_hook else float(probe.get("timeoutSeconds") or 1))
    try:
        if "httpGet" in probe:
            return _http(probe["httpGet"], address, deadline, agent), b""
        if "tcpSocket" in probe:
            _connected(address, int(probe["tcpSocket"]["port"]), deadline).close()
            return HTTPStatus.OK, b""
        return _grpc(probe["grpc"], address, deadline)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ProbeError(f"{type(error).__name__}: {error}") from error


def _connected(address: str, port: int, deadline: Deadline) -> socket.socket:
    try:
        return socket.create_connection((address, port), deadline.left(), source_address=(_FROM[":" in address], 0))
    except OSError as error:
        # ::6 is there where capture has put it; without capture it makes no difference where we come from.
        if error.errno != errno.EADDRNOTAVAIL or ":" not in address:
            raise
        return socket.create_connection((address, port), deadline.left())


class _Reads(io.RawIOBase):
    """What a socket receives, until the deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer)


@dataclass(frozen=True, slots=True)
class _Socket:
    """As much of one as `http.client` uses."""

    sock: socket.socket
    deadline: Deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        """``rb``."""
        return io.BufferedReader(_Reads(self.sock, self.deadline))

    def sendall(self, content: Any) -> None:
        """All of it, in time."""
        self.sock.settimeout(self.deadline.left())
        self.sock.sendall(content)

    def close(self) -> None:
        """Whoever opened it does that."""


class _Connection(http.client.HTTPConnection):
    """HTTP on a connection that is there already."""

    def __init__(self, sock: _Socket, host: str) -> None:
        super().__init__(host)
        self.sock = sock

    def connect(self) -> None:
        raise http.client.NotConnected("the application has closed the connection")


def _http(action: Mapping[str, Any], address: str, deadline: Deadline, agent: str) -> int:
    port, scheme = int(action["port"]), str(action.get("scheme") or "HTTP").lower()
    authority = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    host, headers = _headers(action.get("httpHeaders") or (), agent)
    url = f"{scheme}://{authority}/{_escaped(str(action.get('path') or '/').removeprefix('/'))}"
    for _ in range(_MOST_REDIRECTS + 1):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ProbeError(f"redirected to {parts.scheme!r}, which nobody speaks here")
        sock = _connected(address, parts.port or (443 if parts.scheme == "https" else 80), deadline)
        try:
            status, location = _exchange(sock, parts, host or parts.netloc, headers, deadline)
        finally:
            sock.close()
        if not location or status not in _REDIRECTS:
            return status
        location = _escaped(location.encode("latin-1").decode("utf-8", "surrogateescape"))
        url = urllib.parse.urljoin(url, location)
        if urllib.parse.urlsplit(url).hostname != parts.hostname:
            # Elsewhere is not the application: the kubelet takes it for well, with a warning.
            return HTTPStatus.OK
        if urllib.parse.urlsplit(location).netloc:
            host = ""  # a name of the application's own choice
    raise ProbeError(f"more than {_MOST_REDIRECTS} redirections")


def _headers(written: Sequence[Mapping[str, Any]], agent: str) -> tuple[str, list[Header]]:
    """The Host that is asked for, or none, and the other headers, as the kubelet sends what a probe has of them."""
    own = [(str(one["name"]), str(one.get("value") or "")) for one in written]
    named = {name.lower() for name, _ in own}
    host = next((value for name, value in own if name.lower() == "host"), "")
    # These two are not sent where a probe empties them; any other is sent empty.
    found = [one for one in own if one[1] or one[0].lower() not in ("accept", "user-agent")]
    found = [one for one in found if one[0].lower() not in ("host", "connection", "content-length")]
    defaults = (("User-Agent", agent), ("Accept", "*/*"))
    return host, [*(one for one in defaults if one[0].lower() not in named), *found, ("Connection", "close")]


def _escaped(path: str) -> str:
    """A path and its query, whatever an author or an application writes there."""
    before, mark, fragment = path.partition("#")
    return urllib.parse.quote(before, safe=_SAFE, errors="surrogateescape") + mark + fragment


def _exchange(
    sock: socket.socket, parts: urllib.parse.SplitResult, host: str, headers: Sequence[Header], deadline: Deadline
) -> tuple[int, str | None]:
    sock.settimeout(deadline.left())
    if parts.scheme == "https":
        # As the kubelet: who answers is not asked to prove who it is.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    with sock:
        connection = _Connection(_Socket(sock, deadline), parts.netloc)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
        for name, value in (("Host", host), *headers):
            connection.putheader(name, value.encode())
        connection.endheaders()
        answer = connection.getresponse()
        # The kubelet takes an answer that breaks off for none.
        answer.read(_LONGEST_BODY)
        return answer.status, answer.getheader("location")


def _grpc(action: Mapping[str, Any], address: str, deadline: Deadline) -> tuple[int, bytes]:
    from pymesh.pod import grpc_health  # few applications have such a probe, and it needs HTTP/2

    port = int(action["port"])
    authority = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    with _connected(address, port, deadline) as sock:
        problem = grpc_health.check(sock, authority, str(action.get("service") or ""), deadline.left)
    if problem:
        raise ProbeError(problem)
    return HTTPStatus.OK, b""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    probes: Mapping[str, Probe] = {}
    application = ""

    def __init__(self, *given: Any) -> None:
        #: Connections whose request has not come yet, the oldest first.
        self._waiting: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        super().__init__(*given)

    def server_bind(self) -> None:
        self.address_family = socket.AF_INET6 if ":" in str(self.server_address[0]) else socket.AF_INET
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for it. A kubelet asks at once; whoever connects and is silent makes room."""
        with self._lock:
            self._waiting[request] = None
            if len(self._waiting) > _MOST_WAITING:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                with contextlib.suppress(OSError):  # its client was faster
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """It is over."""
        self.asked(request)
        super().shutdown_request(request)

    def asked(self, request: socket.socket) -> None:
        """Its request is there."""
        with self._lock:
            self._waiting.pop(request, None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        """A probe, by its path."""
        server = self.server
        assert isinstance(server, _Server)
        server.asked(self.connection)
        probe = server.probes.get(self.path)
        if probe is None:
            self._answer(HTTPStatus.NOT_FOUND, b"there is no such probe\n")
            return
        agent = self.headers.get("user-agent", "")
        is_hook = self.path.startswith(_HOOKS)
        try:
            known = agent if _KNOWN_AGENT.fullmatch(agent) else _AGENT
            status, body = ask(probe, server.application, known, is_hook=is_hook)
        except ProbeError as error:
            if is_hook:
                self.close_connection = True
                return
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
