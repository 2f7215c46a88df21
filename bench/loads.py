"""Load on a proxy, from one pinned process: wrk for HTTP/1.1, h2load for HTTP/2 and for fixed rates."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.tools.peers import peer

#: A path of the origin whose answer is 1 MiB.
LARGE = "/large"


@dataclass(frozen=True)
class Shape:
    """A kind of load, and what stands between the client and the origin."""

    name: str
    http2_in: bool = False
    http2_out: bool = False
    connections: int = 64
    streams: int = 1
    #: TLS 1.3 towards the client.
    tls: bool = False
    #: Two proxies instead of one, with mutual TLS between them.
    mesh: bool = False
    path: str = "/"
    #: A connection for each request; with TLS "resumed" continues an earlier session.
    connect: str | None = None
    #: An open loop at this share of what the same proxy reached in `peak_of`.
    rate: float | None = None
    peak_of: str | None = None


HTTP1 = Shape("HTTP/1.1, 64 connections")
HTTP2 = Shape("HTTP/2 in and out, 8 x 32 streams", True, True, 8, 32)
SHAPES = (
    HTTP1,
    HTTP2,
    Shape("HTTP/2 in, HTTP/1.1 out, 8 x 32 streams", True, False, 8, 32),
    Shape("HTTP/1.1 over TLS 1.3, 64 connections", tls=True),
    Shape("HTTP/2 over TLS 1.3, HTTP/1.1 out, 8 x 32 streams", True, False, 8, 32, tls=True),
    Shape("two proxies with mutual TLS, HTTP/1.1 at the ends", mesh=True),
    Shape("HTTP/1.1 at half of the peak, open loop", rate=0.5, peak_of=HTTP1.name),
    Shape("HTTP/1.1, answers of 1 MiB, 8 connections", connections=8, path=LARGE),
    Shape("HTTP/1.1, a connection for each request", connections=32, connect="new"),
    Shape("TLS 1.3, a handshake for each request", connections=8, tls=True, connect="new"),
    Shape("TLS 1.3, a resumed session for each request", connections=8, tls=True, connect="resumed"),
)


@dataclass(frozen=True)
class Answered:
    """What the client saw; latencies in milliseconds."""

    requests: int
    per_second: float
    p50: float
    p99: float


class RequestsFailedError(RuntimeError):
    """A load in which not every request was answered with success measures nothing."""


def load(shape: Shape, port: int, seconds: int, prefix: Sequence[str], rate: float | None = None) -> Answered:
    """Load `port` for a while, at `rate` requests per second if there is one. Raises `RequestsFailedError`."""
    url = f"{'https' if shape.tls else 'http'}://127.0.0.1:{port}{shape.path}"
    if shape.connect and shape.tls:
        return _handshakes(shape, port, seconds, prefix)
    if shape.http2_in or rate:
        return _h2load(shape, url, seconds, prefix, rate)
    return _wrk(shape, url, seconds, prefix)


def _wrk(shape: Shape, url: str, seconds: int, prefix: Sequence[str]) -> Answered:
    argv = [*prefix, peer("wrk"), "-t1", f"-c{shape.connections}", f"-d{seconds}s", "--latency"]
    if shape.connect:
        argv += ["-H", "Connection: close"]
    text = subprocess.run([*argv, url], capture_output=True, text=True, check=True).stdout
    requests = int(_find(r"(\d+) requests in", text)[1])
    if "Non-2xx" in text or "Socket errors" in text or not requests:
        raise RequestsFailedError(text)
    p50, p99 = (_milliseconds(_find(rf"{share}%\s+([\d.]+)(us|ms|s)", text)) for share in (50, 99))
    return Answered(requests, float(_find(r"Requests/sec:\s+([\d.]+)", text)[1]), p50, p99)


def _h2load(shape: Shape, url: str, seconds: int, prefix: Sequence[str], rate: float | None) -> Answered:
    with tempfile.NamedTemporaryFile(prefix="h2load-") as log:
        argv = [*prefix, peer("h2load"), "-t1", f"-c{shape.connections}", f"-m{shape.streams}", f"-D{seconds}"]
        if not shape.http2_in:
            argv.append("--h1")
        if rate:
            argv.append(f"--rps={max(1, round(rate / shape.connections))}")
        done = subprocess.run([*argv, f"--log-file={log.name}", url], capture_output=True, text=True, check=True)
        # A line is: start in microseconds, status, duration in microseconds.
        micros = sorted(int(line.split("\t")[2]) for line in Path(log.name).read_text().splitlines())
    counts = _find(r"(\d+) succeeded, (\d+) failed", done.stdout)
    requests = int(counts[1])
    if int(counts[2]) or not requests:
        raise RequestsFailedError(done.stdout)
    p50, p99 = (micros[int(len(micros) * share)] / 1000 for share in (0.50, 0.99))
    return Answered(requests, requests / seconds, p50, p99)


def _handshakes(shape: Shape, port: int, seconds: int, prefix: Sequence[str]) -> Answered:
    client = Path(__file__).with_name("handshakes.py")
    argv = [*prefix, sys.executable, str(client), str(port), str(seconds), str(shape.connections), str(shape.connect)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RequestsFailedError(done.stderr)
    return Answered(**json.loads(done.stdout))


@contextmanager
def idle_connections(port: int, count: int) -> Iterator[None]:
    """Keep-alive connections that have each had one answer and now say nothing."""
    open_now: list[socket.socket] = []
    try:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port), timeout=10)
            open_now.append(client)
            client.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            if not client.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RequestsFailedError("an idle connection's only request was not answered with 200")
        yield
    finally:
        for client in open_now:
            client.close()


def _find(pattern: str, text: str) -> re.Match[str]:
    found = re.search(pattern, text)
    if found is None:
        raise RequestsFailedError(f"no {pattern!r} in:\n{text}")
    return found


def _milliseconds(found: re.Match[str]) -> float:
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]
