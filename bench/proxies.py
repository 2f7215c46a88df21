"""The proxies that are compared, each configured to do the same: accept on one port, forward everything to one origin.

Every proxy has one worker. Access logs are off everywhere; what a proxy counts by default, it counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener
from tests.proxy.running import proxy
from tests.tools.nginx import nginx
from tests.tools.peers import peer
from tests.tools.ports import free_port
from tests.tools.processes import running


@dataclass(frozen=True)
class Setup:
    """Where a proxy listens, where it forwards to, and how it is started (`taskset ...`)."""

    port: int
    origin: int
    http2_out: bool
    prefix: Sequence[str]


#: Starts a proxy; yields the process id whose group is measured.
Start = Callable[[Setup], AbstractContextManager[int]]


def _bootstrap(setup: Setup) -> Json:
    hosts = [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin"}}]}]
    many = {"thresholds": [{"max_connections": 9999, "max_pending_requests": 9999, "max_requests": 9999}]}
    origin = cluster("origin", setup.origin, http2=setup.http2_out)
    return bootstrap([http_listener(setup.port, hosts)], [{**origin, "circuit_breakers": many}], free_port())


@contextmanager
def pymesh(setup: Setup) -> Iterator[int]:
    """Ours."""
    with proxy("pymesh", _bootstrap(setup), prefix=setup.prefix) as started:
        yield started.process.pid


@contextmanager
def envoy(setup: Setup) -> Iterator[int]:
    """Envoy, on the same bootstrap."""
    with proxy("envoy", _bootstrap(setup), prefix=setup.prefix) as started:
        yield started.process.pid


@contextmanager
def nginx_proxy(setup: Setup) -> Iterator[int]:
    """nginx; it does not speak HTTP/2 to origins."""
    http = f"""
        upstream origin {{ server 127.0.0.1:{setup.origin}; keepalive 512; keepalive_requests 1000000000; }}
        server {{ listen 127.0.0.1:{setup.port}; listen 127.0.0.1:{setup.port + 1} http2; http2_max_requests 1000000000;
                 location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
    """
    with nginx(http, [setup.port], prefix=setup.prefix) as process:
        yield process.pid


@contextmanager
def haproxy(setup: Setup) -> Iterator[int]:
    """HAProxy with one thread."""
    out = "proto h2" if setup.http2_out else ""
    config = f"""
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend in
    bind 127.0.0.1:{setup.port}
    bind 127.0.0.1:{setup.port + 1} proto h2
    default_backend origin
backend origin
    server origin 127.0.0.1:{setup.origin} {out}
"""
    with tempfile.TemporaryDirectory(prefix="haproxy-") as folder:
        file = Path(folder) / "haproxy.cfg"
        file.write_text(config)
        with running([*setup.prefix, peer("haproxy"), "-f", str(file)], title="haproxy", ports=[setup.port]) as process:
            yield process.pid


@dataclass(frozen=True)
class Competitor:
    """A proxy, and what it can do."""

    name: str
    start: Start
    http2_out: bool = True
    #: Cleartext HTTP/2 with prior knowledge is taken on the same port as HTTP/1.
    one_port: bool = False


COMPETITORS = (
    Competitor("pymesh", pymesh, one_port=True),
    Competitor("envoy", envoy, one_port=True),
    Competitor("nginx", nginx_proxy, http2_out=False),
    Competitor("haproxy", haproxy),
)
