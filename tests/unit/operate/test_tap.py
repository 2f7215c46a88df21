"""The lines of `/tap`: read from several proxies, chosen, shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from pymesh.cli.main import main
from pymesh.operate.mesh import PageError
from pymesh.operate.tap import Tap, Target, Wanted, direction, has_failed, text

LINE = {
    "start_time": "2026-11-26T17:20:01.123Z",
    "method": "GET",
    "authority": "reviews.shop",
    "path": "/reviews/1",
    "protocol": "HTTP/1.1",
    "response_code": 200,
    "response_flags": "-",
    "response_code_details": "via_upstream",
    "grpc_status": None,
    "duration": 3,
    "bytes_received": 0,
    "bytes_sent": 42,
    "upstream_cluster": "outbound|80||reviews.shop.svc.cluster.local",
    "upstream_host": "127.0.0.1:9080",
}
BROKEN = {**LINE, "response_code": 503, "response_flags": "UF", "response_code_details": "x{y}", "upstream_host": None}


@contextmanager
def page(lines: Sequence[dict[str, Any]], *, status: int = 200, ends: bool = True) -> Iterator[str]:
    """A proxy's admin address; the page says so much."""
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/tap"
            self.send_response(status)
            self.end_headers()
            for line in lines:
                self.wfile.write(json.dumps(line).encode() + b"\n")
            self.wfile.flush()
            if not ends:
                release.wait(30)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            release.set()
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("wanted", "is_there"),
    [
        (Wanted(), True),
        (Wanted(method="get"), True),
        (Wanted(method="POST"), False),
        (Wanted(path="/reviews"), True),
        (Wanted(path="/1"), False),
        (Wanted(authority="shop"), True),
        (Wanted(authority="web"), False),
        (Wanted(status="200"), True),
        (Wanted(status="2xx"), True),
        (Wanted(status="5xx"), False),
        (Wanted(direction="out"), True),
        (Wanted(direction="in"), False),
        (Wanted(failed=True), False),
    ],
    ids=str,
)
def test_lines_are_chosen(wanted: Wanted, is_there: bool) -> None:
    assert (LINE in wanted) is is_there


def test_what_has_failed() -> None:
    assert has_failed(BROKEN)
    assert has_failed({**LINE, "response_code": 0})
    assert has_failed({**LINE, "response_flags": "DC"})
    assert has_failed({**LINE, "grpc_status": "14"})
    assert not has_failed({**LINE, "grpc_status": "0"})
    assert not has_failed({**LINE, "response_code": 404})


def test_a_line_for_people() -> None:
    assert text(LINE, "web.shop") == (
        "17:20:01.123  web.shop  out  GET reviews.shop/reviews/1  200  3 ms  0/42 B  "
        "-> 127.0.0.1:9080 outbound|80||reviews.shop.svc.cluster.local"
    )
    assert "  503 UF (x{y})  " in text(BROKEN)
    assert "-> nowhere" in text(BROKEN)
    assert text({"missed": 7}, "web.shop").startswith("web.shop: 7 requests were not shown")
    # A request that broke off before its head was read.
    assert text(dict.fromkeys(LINE), "web.shop")
    assert direction({"upstream_cluster": "inbound|80||"}) == "in"


def test_lines_of_several_proxies_until_all_are_gone() -> None:
    with page([LINE, BROKEN]) as one, page([LINE]) as other:
        with Tap([Target("one", one), Target("other", other)]) as opened:
            found = [opened.read() for _ in range(4)]
    assert sorted(target.title for target, _ in filter(None, found)) == ["one", "one", "other"]
    assert found[3] is None


def test_patience_ends_where_nothing_comes() -> None:
    with page([LINE], ends=False) as address, Tap([Target("one", address)]) as opened:
        assert opened.read(20) is not None
        assert opened.read(0.05) is None


def test_a_page_that_does_not_come_is_told() -> None:
    with page([], status=503) as address, pytest.raises(PageError, match="/tap: 503"), Tap([Target("one", address)]):
        pass
    with pytest.raises(PageError, match="refused"), Tap([Target("one", "127.0.0.1:1")]):
        pass


def test_the_command() -> None:
    with page([LINE, BROKEN, LINE], ends=False) as address:
        done = CliRunner().invoke(main, ["tap", address, "--failed", "-o", "json", "-c", "1"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.output) == {"proxy": address, **BROKEN}
        done = CliRunner().invoke(main, ["tap", address, "-c", "2"])
        assert len(done.output.splitlines()) == 2
        done = CliRunner().invoke(main, ["tap", address, "-t", "0.3", "--path", "/elsewhere"])
        assert (done.exit_code, done.output) == (0, "")


@pytest.mark.parametrize("status", ["abc", "50", "5x", "xx5", "60000"])
def test_a_status_that_is_none_is_refused(status: str) -> None:
    done = CliRunner().invoke(main, ["tap", "127.0.0.1:1", "--status", status])
    assert done.exit_code == 1
    assert f"error: --status {status!r} is no status\nhint: 503" in done.output
