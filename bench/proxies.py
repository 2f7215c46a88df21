"""The proxies that are compared, each configured to do the same: forward everything to one origin.

Every proxy has one worker and counts what it counts by default. pymesh and Envoy run the same bootstrap, in which
every request also gets a request id and forwarded headers, and one in a hundred is logged; the others log nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import proxy
from tests.tools.nginx import nginx
from tests.tools.peers import peer
from tests.tools.ports import free_port, free_ports
from tests.tools.processes import running

_FILTERS = Path(__file__).parent / "filters"
_ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}
_PYTHON = {
    "name": "stamp",
    "typed_config": {
        "@type": "type.googleapis.com/pymesh.filters.v1.PythonFilter",
        "name": "stamp",
        "class": "stamp:Stamp",
        "source": (_FILTERS / "stamp.py").read_text(),
    },
}
_LUA = {
    "name": "envoy.filters.http.lua",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": (_FILTERS / "stamp.lua").read_text()},
    },
}


@dataclass(frozen=True)
class Setup:
    """What a proxy forwards to, and what its command line begins with (`taskset ...`)."""

    origin: int
    http2_out: bool
    prefix: Sequence[str]


@dataclass(frozen=True)
class Started:
    """A proxy that runs: the leader of its process group, and where it takes each version of HTTP."""

    pid: int
    http1: int
    http2: int


Start = Callable[[Setup], AbstractContextManager[Started]]


@dataclass(frozen=True)
class Competitor:
    """A proxy, and what it can do."""

    name: str
    start: Start
    http1_in: bool = True
    http2_out: bool = True
    #: Runs a filter; compared with the same proxy without.
    base: str | None = None


def _on_bootstrap(kind: str, filters: Sequence[Json] = ()) -> Start:
    @contextmanager
    def start(setup: Setup) -> Iterator[Started]:
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="access-log-") as folder:
            manager = {
                "http_filters": [*filters, _ROUTER],
                "use_remote_address": True,
                "generate_request_id": True,
                "access_log": [_sampled_log(Path(folder) / "access.log")],
            }
            listener = http_listener(port, [virtual_host("all", [to_cluster("origin")])], **manager)
            many = {"thresholds": [{"max_connections": 9999, "max_pending_requests": 9999, "max_requests": 9999}]}
            origin = cluster("origin", [setup.origin], http2=setup.http2_out, circuit_breakers=many)
            with proxy(kind, bootstrap([listener], [origin], free_port()), prefix=setup.prefix) as started:
                yield Started(started.process.pid, port, port)

    return start


def _sampled_log(file: Path) -> Json:
    one_percent = {"runtime_key": "bench", "percent_sampled": {"numerator": 1, "denominator": "HUNDRED"}}
    return {
        "name": "envoy.access_loggers.file",
        "filter": {"runtime_filter": one_percent},
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(file),
        },
    }


@contextmanager
def _nginx(setup: Setup) -> Iterator[Started]:
    """It does not speak HTTP/2 to origins."""
    http1, http2 = free_ports(2)
    http = f"""
        upstream origin {{ server 127.0.0.1:{setup.origin}; keepalive 512; keepalive_requests 1000000000; }}
        server {{ listen 127.0.0.1:{http1}; listen 127.0.0.1:{http2} http2; http2_max_requests 1000000000;
                 location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
    """
    with nginx(http, [http1, http2], prefix=setup.prefix) as process:
        yield Started(process.pid, http1, http2)


@contextmanager
def _haproxy(setup: Setup) -> Iterator[Started]:
    http1, http2 = free_ports(2)
    config = f"""
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend in
    bind 127.0.0.1:{http1}
    bind 127.0.0.1:{http2} proto h2
    default_backend origin
backend origin
    server origin 127.0.0.1:{setup.origin} {"proto h2" if setup.http2_out else ""}
"""
    with tempfile.TemporaryDirectory(prefix="haproxy-") as folder:
        file = Path(folder) / "haproxy.cfg"
        file.write_text(config)
        argv = [*setup.prefix, peer("haproxy"), "-f", str(file)]
        with running(argv, title="haproxy", ports=[http1, http2]) as process:
            yield Started(process.pid, http1, http2)


@contextmanager
def _nghttpx(setup: Setup) -> Iterator[Started]:
    port = free_port()
    argv = [
        *(*setup.prefix, peer("nghttpx"), "--conf=/dev/null", "--workers=1", "--errorlog-file=/dev/null"),
        f"--frontend=127.0.0.1,{port};no-tls",
        f"--backend=127.0.0.1,{setup.origin};;{'proto=h2' if setup.http2_out else 'proto=http/1.1'}",
        "--frontend-http2-max-concurrent-streams=1000",
    ]
    with running(argv, title="nghttpx", ports=[port]) as process:
        yield Started(process.pid, port, port)


COMPETITORS = (
    Competitor("pymesh", _on_bootstrap("pymesh")),
    Competitor("nginx", _nginx, http2_out=False),
    Competitor("haproxy", _haproxy),
    Competitor("nghttpx", _nghttpx, http1_in=False),
    Competitor("envoy", _on_bootstrap("envoy")),
)
FILTERED = (
    Competitor("pymesh + Python filter", _on_bootstrap("pymesh", [_PYTHON]), base="pymesh"),
    Competitor("envoy + Lua filter", _on_bootstrap("envoy", [_LUA]), base="envoy"),
)
