"""Every pair of {HTTP/1.1, HTTP/2} x {cleartext, TLS} downstream and upstream, with other people's programs.

Downstream speak curl (both versions), nghttp and h2load; upstream nginx, nghttpd and Python's `h2`. One proxy has a
listener per way in, and one cluster per origin, named by the first path segment. A pair holds when the content is
right octet for octet, the client says that it spoke the version it should, and so does the proxy's upstream.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

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
from tests.proxy.running import Proxy
from tests.tools.certificates import Authority, KeyPair
from tests.tools.nginx import nginx
from tests.tools.peers import peer
from tests.tools.ports import free_port
from tests.tools.processes import running
from tests.tools.wire.client import Answer, client_context, fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import origin

DOWNSTREAM = ["http1", "http1-tls", "http2", "http2-tls"]
ORIGINS = [
    "nginx-http1",
    "nginx-http1-tls",
    "nginx-http2",
    "nghttpd-http2",
    "nghttpd-http2-tls",
    "python-http1",
    "python-http1-tls",
    "python-http2",
    "python-http2-tls",
]
ECHOING = [name for name in ORIGINS if name.startswith("python-")]
CONTENT = random.Random(1).randbytes(300_000)


@dataclass(frozen=True)
class Mesh:
    """The proxy under test between all clients and all origins."""

    proxy: Proxy
    root: str
    ports: dict[str, int]

    def url(self, downstream: str, name: str, path: str = "/content.bin") -> str:
        """Where a client finds an origin by a way in."""
        scheme = "https" if downstream.endswith("-tls") else "http"
        return f"{scheme}://localhost:{self.ports[downstream]}/{name}{path}"

    def fetch(self, downstream: str, request: Request, body: bytes = b"") -> Answer:
        """Ask with the tests' own client, which is `h2` for HTTP/2."""
        use_http2 = downstream.startswith("http2")
        alpn = ["h2"] if use_http2 else ["http/1.1"]
        tls = client_context(self.root, alpn) if downstream.endswith("-tls") else None
        return fetch(self.ports[downstream], request, body, use_http2=use_http2, tls=tls)


@pytest.fixture(scope="module")
def mesh(
    run_proxy: Callable[[Json], AbstractContextManager[Proxy]],
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mesh]:
    files = tmp_path_factory.mktemp("files")
    (files / "content.bin").write_bytes(CONTENT)
    pair = authority.issue("pairs", dns=["localhost"])
    with ExitStack() as stack:
        clusters = []
        for name in ORIGINS:
            port = start_origin(stack, name, files, pair)
            use_http2 = "http2" in name
            tls = None
            if name.endswith("-tls"):
                tls = upstream_tls(str(authority.root), "localhost", alpn=["h2" if use_http2 else "http/1.1"])
            clusters.append(cluster(name, [port], http2=use_http2, tls=tls))
        routes = [to_cluster(name, f"/{name}/", prefix_rewrite="/") for name in ORIGINS]
        ports = {way: free_port() for way in DOWNSTREAM}
        listeners = [
            http_listener(
                port,
                [virtual_host("all", routes)],
                name=way,
                tls=downstream_tls(pair) if way.endswith("-tls") else None,
            )
            for way, port in ports.items()
        ]
        proxy = stack.enter_context(run_proxy(bootstrap(listeners, clusters, free_port())))
        yield Mesh(proxy, str(authority.root), ports)


def start_origin(stack: ExitStack, name: str, files: Path, pair: KeyPair) -> int:
    """Start one of `ORIGINS`; its port."""
    program, protocol, *tls = name.split("-")
    if program == "python":
        running_origin = origin(name, http2=protocol == "http2", tls=pair if tls else None)
        return stack.enter_context(running_origin).port
    port = free_port()
    if program == "nginx":
        words = f"{'ssl' if tls else ''} {'http2' if protocol == 'http2' else ''}"
        certificate = f"ssl_certificate {pair.chain}; ssl_certificate_key {pair.key};" if tls else ""
        stack.enter_context(nginx(f"server {{ listen 127.0.0.1:{port} {words}; {certificate} root {files}; }}", [port]))
    else:
        files_option = f"--htdocs={files}"
        credentials = [str(pair.key), str(pair.chain)] if tls else []
        argv = [peer("nghttpd"), files_option, "--address=127.0.0.1", *([] if tls else ["--no-tls"]), str(port)]
        stack.enter_context(running([*argv, *credentials], ports=[port]))
    return port


@pytest.mark.parametrize("name", ORIGINS)
@pytest.mark.parametrize("downstream", DOWNSTREAM)
def test_curl(downstream: str, name: str, mesh: Mesh, tmp_path: Path) -> None:
    version = {"http1": "--http1.1", "http2": "--http2-prior-knowledge", "http2-tls": "--http2"}
    got = tmp_path / "got.bin"
    before = mesh.proxy.stats()
    client = subprocess.run(
        [
            *(peer("curl"), "--silent", "--show-error", "--max-time", "20", "--cacert", mesh.root),
            *(version.get(downstream, "--http1.1"), "--output", str(got)),
            *("--write-out", "%{http_code} %{http_version}", mesh.url(downstream, name)),
        ],
        capture_output=True,
        text=True,
    )
    assert client.returncode == 0, client.stderr
    assert client.stdout == ("200 2" if downstream.startswith("http2") else "200 1.1")
    if name in ECHOING:
        assert json.loads(got.read_bytes())["origin"] == name
    else:
        assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(CONTENT).digest()
    after = mesh.proxy.stats()
    total = f"cluster.{name}.upstream_rq_total"
    assert after[total] == before.get(total, 0) + 1
    spoken = "http2" if "http2" in name else "http1"
    assert after[f"cluster.{name}.upstream_cx_{spoken}_total"] >= 1


@pytest.mark.parametrize("name", ORIGINS)
@pytest.mark.parametrize("downstream", [way for way in DOWNSTREAM if way.startswith("http2")])
def test_nghttp(downstream: str, name: str, mesh: Mesh) -> None:
    client = subprocess.run(
        [peer("nghttp"), "--no-verify-peer", "--timeout=20", "--stat", "--null-out"] + [mesh.url(downstream, name)] * 3,
        capture_output=True,
        text=True,
    )
    assert client.returncode == 0, client.stderr + client.stdout
    lines = [line.split() for line in client.stdout.splitlines() if "/content.bin" in line]
    assert lines, client.stdout
    assert all("200" in fields for fields in lines), client.stdout


@pytest.mark.parametrize("name", ORIGINS)
@pytest.mark.parametrize("downstream", DOWNSTREAM)
def test_h2load(downstream: str, name: str, mesh: Mesh) -> None:
    one = ["--h1"] if downstream.startswith("http1") else ["-m", "8"]
    client = subprocess.run(
        [peer("h2load"), "-n", "64", "-c", "4", *one, mesh.url(downstream, name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert re.search(r"64 total, 64 started, 64 done, 64 succeeded, 0 failed, 0 errored", client.stdout), client.stdout
    assert "status codes: 64 2xx" in client.stdout, client.stdout


@pytest.mark.parametrize("name", ECHOING)
@pytest.mark.parametrize("downstream", DOWNSTREAM)
def test_bodies_both_ways(downstream: str, name: str, mesh: Mesh) -> None:
    request = Request("POST", f"/{name}/echo", "localhost", [("x-want-echo", "1")])
    answer = mesh.fetch(downstream, request, CONTENT)
    assert answer.status == 200
    assert answer.header("x-origin") == name
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(CONTENT).digest()


@pytest.mark.parametrize("name", ECHOING)
@pytest.mark.parametrize("downstream", DOWNSTREAM)
@pytest.mark.parametrize("status", [204, 304])
def test_status_without_body(downstream: str, name: str, status: int, mesh: Mesh) -> None:
    request = Request("GET", f"/{name}/", "localhost", [("x-want-status", str(status))])
    answer = mesh.fetch(downstream, request)
    assert (answer.status, answer.body) == (status, b"")


@pytest.mark.parametrize("name", ECHOING)
@pytest.mark.parametrize("downstream", DOWNSTREAM)
def test_head(downstream: str, name: str, mesh: Mesh) -> None:
    answer = mesh.fetch(downstream, Request("HEAD", f"/{name}/", "localhost"))
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.header("content-length") or 0) > 0
