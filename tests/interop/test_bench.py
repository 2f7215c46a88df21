"""`pymesh bench` beside wrk and h2load on the same target, and on targets whose delays are known.

Its figures are held against those of others that run at the same time, or against the target's own clock, in short
rounds: a noisy machine makes a round worse, never better, so that the best of several decides. What each request
and each failure becomes is checked without a clock in `rust/load/tests`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import proxy, pymesh
from tests.tools.certificates import Authority
from tests.tools.delayed import Delayed, Stalling, on_loopback
from tests.tools.nginx import nginx
from tests.tools.peers import peer
from tests.tools.ports import free_port
from tests.tools.processes import Running

#: Measured is less than 0.05 (`docs/guide/benchmarks.md`); this is what a noisy machine may add.
THROUGHPUT_APART = 0.25
ON_TARGETS_CORE, ON_CLIENTS_CORE = ["taskset", "-c", "0"], ["taskset", "-c", str(min(1, (os.cpu_count() or 1) - 1))]
PERCENTILES_APART = 0.02
ROUNDS = 5


def bench(*arguments: str | Path, code: int = 0) -> Any:
    """Runs it; its JSON."""
    done = subprocess.run(
        [*pymesh(), "bench", "--json", "-", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Target:
    """nginx, in every way that it can be asked."""

    http1: str
    http1_tls: str
    http2: str
    http2_tls: str
    root: Path
    process: Running


@pytest.fixture(scope="module")
def target(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    pair = authority.issue("bench", dns=["localhost"], addresses=["127.0.0.1"])
    files = tmp_path_factory.mktemp("files")
    (files / "large").write_bytes(b"x" * 1_000_000)
    ports = [free_port() for _ in range(4)]
    kinds = ["", " ssl", " http2", " ssl http2"]
    locations = f"""
        ssl_certificate {pair.chain}; ssl_certificate_key {pair.key};
        ssl_client_certificate {authority.root}; ssl_verify_client optional;
        location = /large {{ root {files}; }}
        location = /missing {{ return 404; }}
        location = /who {{ return 200 "$ssl_client_s_dn $request_method $host $http_x_a"; }}
        location = /status {{ stub_status; }}
        location / {{ return 200 "hello world\\n"; }}"""
    servers = [
        f"server {{ listen 127.0.0.1:{port}{kind}; {locations} }}" for port, kind in zip(ports, kinds, strict=True)
    ]
    with nginx("\n".join(servers), ports, prefix=ON_TARGETS_CORE) as process:
        one, two, three, four = ports
        yield Target(
            f"http://127.0.0.1:{one}/",
            f"https://127.0.0.1:{two}/",
            f"http://127.0.0.1:{three}/",
            f"https://localhost:{four}/",
            authority.root,
            process,
        )


def side_by_side(ours: list[str], theirs: list[str], rate: str) -> None:
    """Both at once on one core, the target on the other one, whose capacity they share: a noisy moment meets both.

    `rate` finds requests per second in what they print; the medians of as few rounds as it takes to agree.
    """
    our, their = list[float](), list[float]()
    for _ in range(ROUNDS):
        started = [
            subprocess.Popen([*ON_CLIENTS_CORE, *argv], stdout=subprocess.PIPE, text=True)
            for argv in ([*pymesh(), "bench", "--json", "-", "-d", "2s", *ours], theirs)
        ]
        own, other = (child.communicate(timeout=60)[0] for child in started)
        assert [child.returncode for child in started] == [0, 0], own + other
        found = json.loads(own)
        assert found["requests"]["failed"] == found["requests"]["unexpected_status"] == 0
        assert set(found["statuses"]) == {"200"}
        our.append(found["rate"])
        their.append(float(re.findall(rate, other)[0]))
        # More than theirs is no disagreement: where the clients' core is short it is they who run out of it first. That
        # no answer is counted that was not given, the target's own count says (below).
        if statistics.median(our) > statistics.median(their) * (1 - THROUGHPUT_APART):
            return
    raise AssertionError(f"{our} beside {their}; a build for debugging is no match: `make test` installs a release")


def test_throughput_of_a_closed_loop_beside_wrk(target: Target) -> None:
    theirs = [peer("wrk"), "-t1", "-c32", "-d2s", target.http1]
    side_by_side(["-c", "32", target.http1], theirs, r"Requests/sec:\s+([\d.]+)")


def test_throughput_of_streams_beside_h2load(target: Target) -> None:
    theirs = [peer("h2load"), "-t1", "-c4", "-m16", "-D2", target.http2]
    side_by_side(["--http", "2", "-c", "4", "-m", "16", target.http2], theirs, r"finished in .*, ([\d.]+) req/s")


@pytest.mark.parametrize("way", ["http1", "http2"])
def test_what_it_counts_is_what_the_target_counts(way: str, target: Target) -> None:
    def handled() -> int:
        with urllib.request.urlopen(f"{target.http1}status", timeout=10) as answer:
            return int(answer.read().split()[9])

    options = ["--http", "2", "-m", "8"] if way == "http2" else []
    before = handled()
    found = bench(*options, "-c", "16", "-d", "1s", getattr(target, way))
    # What has begun was waited for; to ask for the status is a request as well.
    assert handled() - before - 1 == found["requests"]["begun"] == found["requests"]["answered"] > 0
    assert 0 <= found["requests"]["answered"] - found["rate"] * found["window_s"] <= 16 * 8 + 1


def test_percentiles_of_a_target_whose_delays_are_known() -> None:
    # 100 to 300 ms in a fixed disorder; what each of them became is written down by the target's own clock.
    def apart() -> dict[str, float]:
        with on_loopback(Delayed(lambda number: 0.1 + number * 37 % 200 / 1000)) as origin:
            found = bench("-r", "200", "-n", "600", "-c", "100", f"http://127.0.0.1:{origin.port}/")
            assert found["requests"]["answered"] == origin.asked == 600
            assert found["latency_ms"]["p50"] >= 190
            percents = (50.0, 75.0, 90.0, 95.0, 99.0)
            return {
                f"p{percent:g}": abs(found["latency_ms"][f"p{percent:g}"] / origin.percentile(percent) - 1)
                for percent in percents
            }

    seen = []
    for _ in range(ROUNDS):
        seen.append(apart())
        if max(seen[-1].values()) < PERCENTILES_APART:
            return
    raise AssertionError(seen)


def test_a_stall_shows_in_an_open_loop_and_hides_in_closed_ones(tmp_path: Path) -> None:
    """By numbers of requests, not by time: who was held up is counted by everybody who was due in the stall."""
    stall_ms, rate = 1_000, 300
    with on_loopback(Stalling(after=200, seconds=stall_ms / 1000)) as origin:
        url = f"http://127.0.0.1:{origin.port}/"
        found = bench("-r", str(rate), "-c", "4", "-n", "900", url)
        slow = sum(count for nanos, count in found["histogram_ns"]["latency"] if nanos > 200e6)
        sent_slowly = sum(count for nanos, count in found["histogram_ns"]["service"] if nanos > 200e6)
        # Those of its last 200 ms waited less than that.
        assert slow >= (stall_ms - 200) * rate / 1000 * 0.95
        assert found["latency_ms"]["p75"] > 200
        assert sent_slowly <= 4, "the client that waits with sending sees one for each connection"
        assert found["service_ms"]["p99"] < found["latency_ms"]["p99"] / 2

    with on_loopback(Stalling(after=200, seconds=stall_ms / 1000)) as origin:
        log = tmp_path / "h2load.log"
        url = f"http://127.0.0.1:{origin.port}/"
        subprocess.run(
            [peer("h2load"), "--h1", "-c4", "-D2", f"--log-file={log}", url], capture_output=True, check=True
        )
        micros = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
        assert len(micros) > 2_000
        assert sum(value > 200_000 for value in micros) <= 4, "one for each connection"
        assert micros[len(micros) * 99 // 100] < 200_000

    with on_loopback(Stalling(after=200, seconds=stall_ms / 1000)) as origin:
        # wrk 4.1 makes up latencies for requests that it might have sent in the meantime, at the rate that it had on
        # average. Requests that were held up it has seen four, as the target says.
        subprocess.run([peer("wrk"), "-t1", "-c4", "-d2s", f"http://127.0.0.1:{origin.port}/"], check=True)
        assert origin.asked > 2_000
        assert origin.held <= 4

    with on_loopback(Stalling(after=200, seconds=stall_ms / 1000)) as origin:
        closed = bench("-c", "4", "-d", "2s", f"http://127.0.0.1:{origin.port}/")
        # Our own closed loop is as blind.
        assert sum(count for nanos, count in closed["histogram_ns"]["latency"] if nanos > 500e6) <= 4
        assert closed["latency_ms"]["p99"] < 200


@pytest.mark.parametrize("way", ["http1", "http1_tls", "http2", "http2_tls"])
def test_every_way_in(way: str, target: Target) -> None:
    options = ["--http", "2", "-m", "8"] if way.startswith("http2") else []
    options += ["--cacert", str(target.root)] if way.endswith("_tls") else []
    url = getattr(target, way)
    found = bench(*options, "-c", "4", "-w", "2", "-n", "1000", url, f"{url}large")
    assert found["requests"] == {
        "begun": 1000,
        "answered": 1000,
        "failed": 0,
        "unexpected_status": 0,
        "unfinished": 0,
        "resent": 0,
    }
    assert found["connections"]["opened"] == 4
    assert found["body_octets"] == 500 * 12 + 500 * 1_000_000
    assert found["target"]["protocol"] == ("HTTP/2" if way.startswith("http2") else "HTTP/1.1")


def test_a_connection_for_each_request(target: Target) -> None:
    found = bench("--no-keepalive", "-c", "4", "-n", "200", target.http1)
    assert found["requests"]["answered"] == 200
    assert 200 <= found["connections"]["opened"] <= 204


@pytest.mark.parametrize("way", ["http1_tls", "http2_tls"])
def test_what_is_sent_arrives(way: str, target: Target, authority: Authority) -> None:
    """Method, authority, header and client certificate, counted by octets of an answer that repeats them."""
    pair = authority.issue("client")
    version = ["--http", "2"] if way == "http2_tls" else []
    common = [*version, "--cacert", str(target.root), "--cert", str(pair.chain), "--key", str(pair.key), "-n", "1"]
    found = bench(*common, "-X", "PUT", "-H", "Host: b.test", "-H", "X-A: some", f"{getattr(target, way)}who")
    assert found["body_octets"] == len("CN=client PUT b.test some")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "invalid peer certificate"),
        (["--cacert", "ROOT", "--sni", "other.test"], "other.test"),
        (
            ["--cacert", "ROOT", "--http", "2"],
            "the target does not agree to the HTTP version that was asked for by ALPN",
        ),
    ],
)
def test_a_target_that_is_not_trusted(options: list[str], problem: str, target: Target) -> None:
    given = [str(target.root) if option == "ROOT" else option for option in options]
    argv = [*pymesh(), "bench", "-n", "1", *given, target.http1_tls]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot connect to {target.http1_tls[8:-1]}: "), done.stderr
    if "--sni" in options:
        assert "not valid for" in done.stderr or problem in done.stderr, done.stderr
    else:
        assert problem in done.stderr or "unknown" in done.stderr.lower(), done.stderr


def test_any_certificate_will_do_when_told_so(target: Target) -> None:
    assert bench("-k", "-n", "10", target.http1_tls)["requests"]["answered"] == 10


def test_uploads(target: Target, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"x" * 2_000_000)
    for version in ("1.1", "2"):
        url = target.http1 if version == "1.1" else target.http2
        # nginx takes the body in before it answers.
        found = bench("--http", version, "--body", f"@{tmp_path / 'body'}", "-n", "20", "-c", "2", url)
        assert (found["target"]["method"], found["requests"]["answered"]) == ("POST", 20)


def test_exit_codes_and_files(target: Target, tmp_path: Path) -> None:
    argv = [*pymesh(), "bench", "-n", "100", f"{target.http1}missing"]
    run = lambda *more: subprocess.run([*argv, *more], capture_output=True, text=True, timeout=60)  # noqa: E731
    done = run("--json", str(tmp_path / "found.json"), "--png", str(tmp_path / "found.png"))
    assert done.returncode == 0, done.stderr
    assert "404: 100" in done.stdout
    assert done.stderr == "", "a progress bar is for terminals"
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["requests"]["unexpected_status"] == 100
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    done = run("--fail-if", "errors>0", "--fail-if", "p99>1h")
    assert done.returncode == 99
    assert "failed: --fail-if errors>0\nheld: --fail-if p99>1h\n" in done.stdout
    assert run("--expect", "404").returncode == 0
    done = run("--expect", "2xx")
    assert done.returncode == 99
    assert "failed: 100 requests did not get an expected status" in done.stdout


def test_interrupted_it_reports_what_it_has(target: Target) -> None:
    argv = [*pymesh(), "bench", "-d", "1h", "-r", "100", "--json", "-", target.http1]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        time.sleep(3)
        child.send_signal(signal.SIGINT)
        out, error = child.communicate(timeout=30)
    assert child.returncode == 0, error
    found = json.loads(out)
    assert found["interrupted"]
    requests = found["requests"]
    assert requests["begun"] == requests["answered"] + requests["unfinished"] > 0
    assert found["window_s"] < 60


@pytest.mark.parametrize("kind", ["pymesh", "envoy"])
@pytest.mark.parametrize("version", ["1.1", "2"])
def test_proxies_as_targets(kind: str, version: str, target: Target) -> None:
    """Through our proxy and Envoy: each request arrives once, which their own counters say as well."""
    origin = int(target.http1.split(":")[2].strip("/"))
    listener = http_listener(free_port(), [virtual_host("all", [to_cluster("origin")])])
    config: Json = bootstrap([listener], [cluster("origin", [origin])], free_port())
    with proxy(kind, config) as started:
        url = f"http://127.0.0.1:{started.port}/"
        options = ["-m", "8"] if version == "2" else []
        found = bench("--http", version, *options, "-c", "8", "-n", "2000", url)
        assert found["requests"]["answered"] == 2000
        assert found["statuses"] == {"200": 2000}
        assert started.stats()["cluster.origin.upstream_rq_total"] == 2000
        # A rate that is far below what either can do.
        paced = bench("--http", version, "-r", "200", "-c", "8", "-n", "100", url)
        assert (paced["requests"]["answered"], paced["generator"]["waiting_most"]) == (100, 0)
