"""The proxies that are compared, each configured to do the same: forward everything to one origin.

Every proxy has one worker and counts what it counts by default. pymesh and Envoy run the same bootstrap, in which
every request also gets a request id and forwarded headers, and one in a hundred is logged; the others log nothing.
Pingora and hyper are the least that a program on them needs (`peers/`), over cleartext only.
"""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pymesh.authoring.build import build
from pymesh.authoring.file import read
from tests.proxy.bootstrap import (
    Json,
    bootstrap,
    cluster,
    downstream_tls,
    http_listener,
    to_cluster,
    upstream_tls,
    virtual_host,
)
from tests.proxy.running import proxy
from tests.tools.certificates import KeyPair
from tests.tools.nginx import nginx
from tests.tools.peers import ROOT, peer
from tests.tools.ports import free_port, free_ports
from tests.tools.processes import running

_FILTERS = Path(__file__).parent / "filters"
_PEERS = Path(__file__).parent / "peers"
_ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}

#: What a Telemetry that disables every metric becomes: none of Istio's metrics.
_UNCOUNTED = {
    "name": "istio.stats",
    "typed_config": {"@type": "type.googleapis.com/stats.PluginConfig", "metrics": [{"drop": True}]},
}


def _python(name: str, **fields: str) -> Json:
    kind = {"@type": "type.googleapis.com/pymesh.filters.v1.PythonFilter", "name": name}
    return {"name": name, "typed_config": {**kind, "class": f"{name}:{name.title()}", **fields}}


_ASK, _STAMP = (_python(name, source=(_FILTERS / f"{name}.py").read_text()) for name in ("ask", "stamp"))
#: Without a source it is imported: the compiled one.
_COMPILED = _python("stamp")
_LUA = {
    "name": "envoy.filters.http.lua",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": (_FILTERS / "stamp.lua").read_text()},
    },
}

#: For the idle connections: by default pymesh takes fewer than half of its file descriptors.
_ROOM = {
    "resource_monitors": [
        {
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3."
                "DownstreamConnectionsConfig",
                "max_active_downstream_connections": 15_000,
            },
        }
    ]
}


@dataclass(frozen=True)
class Certificates:
    """An authority's root, and the pair (for `bench.test`) that every end shows."""

    root: Path
    pair: KeyPair

    def in_one_file(self) -> Path:
        """Chain and key together, as HAProxy wants them."""
        file = self.root.with_name("chain-and-key.pem")
        file.touch(mode=0o600)
        file.write_text(self.pair.chain.read_text() + self.pair.key.read_text())
        return file


@dataclass(frozen=True)
class Setup:
    """What a proxy forwards to, and what its command line begins with (`taskset ...`)."""

    origin: int
    http2_out: bool
    prefix: Sequence[str]
    certificates: Certificates
    #: TLS 1.3 towards clients; "mutual" demands a certificate of them.
    tls_in: Literal["server", "mutual"] | None = None
    #: TLS towards the origin, whose certificate is verified, with our own.
    tls_out: bool = False

    def with_(self, **changes: Any) -> Setup:
        """The same, with some fields changed."""
        return dataclasses.replace(self, **changes)


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
    tls: bool = True
    #: How many idle connections its memory is measured with.
    idle: int = 10_000
    #: Does more; compared with the same proxy without.
    base: str | None = None


@functools.cache
def _built() -> Path:
    """The folder with `stamp.py` compiled."""
    folder = ROOT / ".tools" / "bench-filters"
    build(read(_FILTERS / "stamp.py"), folder)
    return folder


def _on_bootstrap(
    kind: str,
    filters: Sequence[Json] = (),
    routes: int = 1,
    logged: int = 1,
    traced: int = 0,
    counted: bool = True,
) -> Start:
    """`logged` and `traced` are the percent of the requests that are; `counted`: in Istio's metrics."""
    if not counted:
        filters = [*filters, _UNCOUNTED]

    @contextmanager
    def start(setup: Setup) -> Iterator[Started]:
        if _COMPILED in filters:
            setup = setup.with_(prefix=[*setup.prefix, "env", f"PYTHONPATH={_built()}"])
        port, certificates = free_port(), setup.certificates
        down = up = None
        if setup.tls_in:
            client_root = str(certificates.root) if setup.tls_in == "mutual" else None
            down = downstream_tls(certificates.pair, client_root=client_root)
            down["typed_config"]["common_tls_context"]["tls_params"] = {"tls_minimum_protocol_version": "TLSv1_3"}
        if setup.tls_out:
            alpn = ["h2" if setup.http2_out else "http/1.1"]
            up = upstream_tls(str(certificates.root), "bench.test", pair=certificates.pair, alpn=alpn)
            up["typed_config"]["common_tls_context"]["tls_params"] = {"tls_maximum_protocol_version": "TLSv1_3"}
        with tempfile.TemporaryDirectory(prefix="access-log-") as folder:
            manager = {
                "http_filters": [*filters, _ROUTER],
                "use_remote_address": True,
                "generate_request_id": True,
                "access_log": [_sampled_log(Path(folder) / "access.log", logged)] if logged else [],
                **({"tracing": _sampled_traces(traced)} if traced else {}),
            }
            # What is asked for matches the last one only.
            others = [to_cluster("origin", f"/service-{number}/") for number in range(routes - 1)]
            hosts = [virtual_host("all", [*others, to_cluster("origin")])]
            listener = http_listener(port, hosts, tls=down, **manager)
            many = {"thresholds": [{"max_connections": 99999, "max_pending_requests": 99999, "max_requests": 99999}]}
            origin = cluster("origin", [setup.origin], http2=setup.http2_out, tls=up, circuit_breakers=many)
            # The origin says 200 to everything, also to spans.
            clusters = [origin, *([cluster("collector", [setup.origin])] if traced else [])]
            config = {**bootstrap([listener], clusters, free_port()), "overload_manager": _ROOM}
            with proxy(kind, config, prefix=setup.prefix) as started:
                yield Started(started.process.pid, port, port)

    return start


def _sampled_log(file: Path, percent: int) -> Json:
    share = {"runtime_key": "bench", "percent_sampled": {"numerator": percent, "denominator": "HUNDRED"}}
    return {
        "name": "envoy.access_loggers.file",
        "filter": {"runtime_filter": share},
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(file),
        },
    }


def _sampled_traces(percent: int) -> Json:
    return {
        "random_sampling": {"value": percent},
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "service_name": "bench",
                "http_service": {
                    "http_uri": {"uri": "http://collector/v1/traces", "cluster": "collector", "timeout": "5s"}
                },
            },
        },
    }


@contextmanager
def _nginx(setup: Setup) -> Iterator[Started]:
    """It does not speak HTTP/2 to origins."""
    http1, http2 = free_ports(2)
    pair, root = setup.certificates.pair, setup.certificates.root
    tls = pass_tls = ssl = ""
    if setup.tls_in:
        ssl = " ssl"
        tls = f"""ssl_certificate {pair.chain}; ssl_certificate_key {pair.key}; ssl_protocols TLSv1.3;
                  ssl_session_cache shared:bench:10m;"""
    if setup.tls_in == "mutual":
        tls += f"ssl_client_certificate {root}; ssl_verify_client on;"
    if setup.tls_out:
        pass_tls = f"""proxy_ssl_certificate {pair.chain}; proxy_ssl_certificate_key {pair.key}; proxy_ssl_verify on;
                       proxy_ssl_trusted_certificate {root}; proxy_ssl_name bench.test; proxy_ssl_server_name on;
                       proxy_ssl_protocols TLSv1.3;"""
    http = f"""
        upstream origin {{ server 127.0.0.1:{setup.origin}; keepalive 512; keepalive_requests 1000000000; }}
        server {{ listen 127.0.0.1:{http1}{ssl}; listen 127.0.0.1:{http2}{ssl} http2;
                 http2_max_requests 1000000000; {tls}
                 location / {{ proxy_pass {"https" if setup.tls_out else "http"}://origin; {pass_tls}
                               proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
    """
    with nginx(http, [http1, http2], prefix=setup.prefix) as process:
        yield Started(process.pid, http1, http2)


@contextmanager
def _haproxy(setup: Setup) -> Iterator[Started]:
    http1, http2 = free_ports(2)
    bind = server = ""
    if setup.tls_in:
        bind = f"ssl crt {setup.certificates.in_one_file()} ssl-min-ver TLSv1.3 alpn h2,http/1.1"
    if setup.tls_in == "mutual":
        bind += f" verify required ca-file {setup.certificates.root}"
    if setup.tls_out:
        server = f"""ssl crt {setup.certificates.in_one_file()} verify required ca-file {setup.certificates.root} \
                     sni str(bench.test) verifyhost bench.test ssl-min-ver TLSv1.3 alpn h2,http/1.1"""
    config = f"""
global
    nbthread 1
    maxconn 9900
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend in
    bind 127.0.0.1:{http1} {bind}
    bind 127.0.0.1:{http2} {bind or "proto h2"}
    default_backend origin
backend origin
    server origin 127.0.0.1:{setup.origin} {"proto h2" if setup.http2_out else ""} {server}
"""
    with tempfile.TemporaryDirectory(prefix="haproxy-") as folder:
        file = Path(folder) / "haproxy.cfg"
        file.write_text(config)
        argv = [*setup.prefix, peer("haproxy"), "-f", str(file)]
        with running(argv, title="haproxy", ports=[http1, http2]) as process:
            yield Started(process.pid, http1, http2)


@contextmanager
def _nghttpx(setup: Setup) -> Iterator[Started]:
    port, pair, root = free_port(), setup.certificates.pair, setup.certificates.root
    backend = f"--backend=127.0.0.1,{setup.origin};;{'proto=h2' if setup.http2_out else 'proto=http/1.1'}"
    argv = [
        *(*setup.prefix, peer("nghttpx"), "--conf=/dev/null", "--workers=1", "--no-ocsp", "--errorlog-file=/dev/null"),
        "--frontend-http2-max-concurrent-streams=1000",
        f"--frontend=127.0.0.1,{port}{'' if setup.tls_in else ';no-tls'}",
        f"{backend};tls;sni=bench.test" if setup.tls_out else backend,
    ]
    if setup.tls_in == "mutual":
        argv += ["--verify-client", f"--verify-client-cacert={root}"]
    if setup.tls_out:
        argv += [f"--cacert={root}", f"--client-cert-file={pair.chain}", f"--client-private-key-file={pair.key}"]
    if setup.tls_in:
        argv += ["--tls-min-proto-version=TLSv1.3", str(pair.key), str(pair.chain)]
    with running(argv, title="nghttpx", ports=[port]) as process:
        yield Started(process.pid, port, port)


def _mitmproxy(*addons: Path) -> Start:
    @contextmanager
    def start(setup: Setup) -> Iterator[Started]:
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="mitmproxy-") as folder:
            argv = [
                *setup.prefix,
                peer("mitmdump"),
                "--quiet",
                "--set",
                f"confdir={folder}",
                "--listen-port",
                str(port),
            ]
            argv += ["--listen-host", "127.0.0.1", "--mode", f"reverse:http://127.0.0.1:{setup.origin}"]
            argv += [option for addon in addons for option in ("--scripts", str(addon))]
            with running(argv, title="mitmproxy", ports=[port], timeout=60) as process:
                yield Started(process.pid, port, port)

    return start


def _in_rust(program: str) -> Start:
    @contextmanager
    def start(setup: Setup) -> Iterator[Started]:
        port = free_port()
        version = ["h2"] if setup.http2_out else []
        argv = [str(_PEERS / "target/release" / program), f"127.0.0.1:{port}", f"127.0.0.1:{setup.origin}", *version]
        with running([*setup.prefix, *argv], title=program, ports=[port]) as process:
            yield Started(process.pid, port, port)

    return start


def build_peers() -> None:
    """Compile the proxies of `peers/`; the first time takes minutes."""
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=_PEERS, check=True)


COMPETITORS = (
    Competitor("pymesh", _on_bootstrap("pymesh")),
    Competitor("nginx", _nginx, http2_out=False),
    # It sets two descriptors aside for each connection, and 20,000 is a common limit.
    Competitor("haproxy", _haproxy, idle=9_500),
    Competitor("nghttpx", _nghttpx, http1_in=False),
    Competitor("envoy", _on_bootstrap("envoy")),
    Competitor("pingora", _in_rust("pingora-proxy"), tls=False),
    Competitor("hyper", _in_rust("hyper-proxy"), tls=False),
)
FILTERED = (
    Competitor("pymesh + Python filter, one hook", _on_bootstrap("pymesh", [_ASK]), base="pymesh"),
    Competitor("pymesh + Python filter", _on_bootstrap("pymesh", [_STAMP]), base="pymesh"),
    Competitor("pymesh + compiled filter", _on_bootstrap("pymesh", [_COMPILED]), base="pymesh"),
    Competitor("envoy + Lua filter", _on_bootstrap("envoy", [_LUA]), base="envoy"),
    Competitor("mitmproxy + addon", _mitmproxy(_FILTERS / "stamp_mitmproxy.py"), tls=False, base="mitmproxy"),
)
#: Istio's metrics alone, and with a line for every request and one in a hundred traced, beside the same that tells
#: nothing of requests.
OBSERVED = (
    Competitor("pymesh + metrics", _on_bootstrap("pymesh", logged=0), base="pymesh, not observed"),
    *(
        Competitor(
            f"{kind} + {'metrics, ' if kind == 'pymesh' else ''}all logged, 1 % traced",
            _on_bootstrap(kind, logged=100, traced=1),
            base=f"{kind}, not observed",
        )
        for kind in ("pymesh", "envoy")
    ),
)
#: Who is there to be compared with itself only.
BASES = (
    Competitor("mitmproxy", _mitmproxy(), tls=False),
    Competitor("pymesh, not observed", _on_bootstrap("pymesh", logged=0, counted=False)),
    Competitor("envoy, not observed", _on_bootstrap("envoy", logged=0)),
)
ROUTED = (
    Competitor("pymesh + 10,000 routes", _on_bootstrap("pymesh", routes=10_000), base="pymesh"),
    Competitor("envoy + 10,000 routes", _on_bootstrap("envoy", routes=10_000), base="envoy"),
)
