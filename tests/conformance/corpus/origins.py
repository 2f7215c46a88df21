"""The five origins behind one proxy, and what each of them understood.

Every origin runs as lenient as it can be told to: a credulous origin is the one that smuggled requests are meant for.
`Seen` is one request at an origin. Those that nginx and Apache refuse never get to the application behind them; their
own access logs tell of these.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tools import origins
from tests.tools.apache import apache
from tests.tools.nginx import nginx
from tests.tools.peers import peer
from tests.tools.ports import free_port
from tests.tools.processes import Running, running

_FOLDER = Path(origins.__file__).parent
#: Each is a listener and a cluster of the proxy; the last two are spoken to in HTTP/2.
NAMES = ("nginx", "apache", "node", "go", "h11", "nginx-h2", "go-h2")

_NGINX_LOG = """
    log_format seen escape=json '{"method":"$request_method","target":"$request_uri","authority":"$http_host",'
        '"id":"$http_x_request_id","for":"$http_x_forwarded_for","peer":$remote_port,"status":$status,'
        '"app":"$upstream_http_x_app"}';
"""
_NGINX_SERVER = """
    server {{
        listen 127.0.0.1:{port} backlog=512 {http2};
        access_log {log} seen;
        ignore_invalid_headers off;
        underscores_in_headers on;
        client_header_buffer_size 128k;
        large_client_header_buffers 8 128k;
        client_body_buffer_size 1m;
        http2_max_requests 1000000;
        location / {{
            fastcgi_pass 127.0.0.1:{app};
            fastcgi_buffer_size 256k;
            fastcgi_buffers 8 256k;
            fastcgi_busy_buffers_size 512k;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param REMOTE_PORT $remote_port;
        }}
    }}
"""
_APACHE = """
Listen 127.0.0.1:{port}
HttpProtocolOptions Unsafe LenientMethods Allow0.9
AllowEncodedSlashes NoDecode
LimitRequestLine 131072
LimitRequestFieldSize 131072
LimitRequestFields 1000
ProxyPass / fcgi://127.0.0.1:{app}/
LogFormat "%s\\t%{{remote}}p\\t%m\\t%U%q\\t%{{Host}}i\\t%{{X-Request-Id}}i\\t%{{X-Forwarded-For}}i\\t%{{X-App}}o" seen
CustomLog {log} seen
"""


@dataclass(frozen=True)
class Seen:
    """One request as an origin understood it; `refused` is the status if it refused it by itself."""

    id: str
    source: str
    method: str
    target: str
    authority: str
    fields: dict[str, list[str]]
    trailers: dict[str, list[str]]
    length: int
    sha256: str
    complete: bool
    peer: int
    refused: int = 0


class Origins:
    """The running origins: where each listens, and what it saw so far."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self._applications: dict[str, Running] = {}
        self._logs: dict[str, Path] = {}

    def seen(self, name: str) -> list[Seen]:
        """Every request that this origin saw, and what it could make no request of."""
        reports = [json.loads(line) for line in self._applications[name].output().split("\n") if line[:1] == "{"]
        found = [_unread(one["peer"]) if "error" in one else _report(one) for one in reports]
        log = self._logs.get(name)
        if log:
            text = log.read_text(encoding="latin-1")
            found += (_apache_log if name == "apache" else _nginx_log)(text.split("\n")[:-1])
        return found

    def add(self, name: str, port: int, application: Running, log: Path | None = None) -> None:
        """An origin has started."""
        self.ports[name] = port
        self._applications[name] = application
        if log:
            self._logs[name] = log


@contextmanager
def run_origins(folder: Path) -> Iterator[Origins]:
    """Run all of them."""
    with ExitStack() as stack:
        found = Origins()

        def program(title: str, argv: Sequence[str], port: int) -> Running:
            return stack.enter_context(running(argv, title=title, ports=[port]))

        def application(title: str) -> tuple[Running, int]:
            port = free_port()
            argv = [sys.executable, str(_FOLDER / "fastcgi.py"), str(port)]
            return program(title, argv, port), port

        servers, ports = [], []
        for name in ("nginx", "nginx-h2"):
            port, log = free_port(), folder / f"{name}.log"
            app, app_port = application(name)
            http2 = "http2" if name == "nginx-h2" else ""
            servers.append(_NGINX_SERVER.format(port=port, http2=http2, log=log, app=app_port))
            ports.append(port)
            found.add(name, port, app, log)
        stack.enter_context(nginx(_NGINX_LOG + "".join(servers), ports))

        port, log = free_port(), folder / "apache.log"
        app, app_port = application("apache")
        config = _APACHE.format(port=port, log=log, app=app_port)
        stack.enter_context(apache(config, ["authz_core", "proxy", "proxy_fcgi"], [port]))
        found.add("apache", port, app, log)

        port = free_port()
        argv = [peer("node"), str(_FOLDER / "origin.mjs"), f"127.0.0.1:{port}"]
        found.add("node", port, program("node", argv, port))
        port = free_port()
        found.add("h11", port, program("h11", [sys.executable, str(_FOLDER / "h11origin.py"), str(port)], port))
        for name in ("go", "go-h2"):
            port = free_port()
            found.add(name, port, program(name, [peer("go-origin"), f"127.0.0.1:{port}"], port))
        yield found


def _report(report: dict[str, Any]) -> Seen:
    fields = _grouped(report["fields"])
    return Seen(
        id=_only(fields, "x-request-id"),
        source=_only(fields, "x-forwarded-for").rpartition(",")[2],
        method=report["method"],
        target=report["target"],
        authority=report["authority"],
        fields=fields,
        trailers=_grouped(report["trailers"]),
        length=report["length"],
        sha256=report["sha256"],
        complete=report["complete"],
        peer=report["peer"],
    )


def _nginx_log(lines: Sequence[str]) -> list[Seen]:
    entries = [json.loads(line) for line in lines]
    return [
        _refused(e["status"], e["peer"], e["method"], e["target"], e["authority"], e["id"], e["for"].rpartition(",")[2])
        for e in entries
        if not e["app"]
    ]


def _apache_log(lines: Sequence[str]) -> list[Seen]:
    found = []
    for line in lines:
        status, port, method, target, host, number, chain, app = line.split("\t")
        if app == "-":
            source = "" if chain == "-" else chain.rpartition(",")[2]
            found.append(_refused(int(status), int(port), method, target, host, number, source))
    return found


def _unread(peer_port: int) -> Seen:
    return _refused(400, peer_port, "", "", "", "", "")


def _refused(status: int, peer_port: int, method: str, target: str, authority: str, number: str, source: str) -> Seen:
    return Seen(number, source, method, target, authority, {}, {}, 0, "", False, peer_port, refused=status)


def _grouped(pairs: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name.lower(), []).append(value)
    return grouped


def _only(fields: dict[str, list[str]], name: str) -> str:
    return ",".join(fields.get(name, []))
