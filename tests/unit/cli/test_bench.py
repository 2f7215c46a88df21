"""`pymesh bench`: wrong arguments get exact answers, and nothing is sent for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pymesh.bench import target
from pymesh.cli.main import main

URL = "http://127.0.0.1:1/"
HTTPS = "https://127.0.0.1:1/"
CONDITIONS = "hint: write 'p99>20ms', 'max>1s', 'errors>0.1%', 'errors>0' or 'rate<900'"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["ftp://a/"], "'ftp://a/' is not a URL that can be asked; hint: write http://HOST:PORT/PATH or https://..."),
        (["a:80"], "'a:80' is not a URL that can be asked; hint: write http://HOST:PORT/PATH or https://..."),
        (["http://a:99999/"], "'http://a:99999/' is not a URL: Port out of range 0-65535"),
        (["http://u:p@a/"], "'http://u:p@a/' has a user in it; hint: send --header 'Authorization: ...'"),
        (
            ["http://a/#b"],
            "'http://a/#b' has a fragment or characters that no request can carry; hint: percent-encode them",
        ),
        (
            [URL, "http://127.0.0.1:2/"],
            "http://127.0.0.1:2/ has another scheme, host or port than http://127.0.0.1:1/; "
            "hint: run one bench for each of them",
        ),
        (["-m", "2", URL], "-m is for --http 2; HTTP/1.1 carries one request at a time; hint: -c more connections"),
        (["--no-keepalive", "--http", "2", URL], "--no-keepalive is for HTTP/1.1"),
        (["-w", "4", "-c", "3", URL], "4 workers need a connection each, and there are 3; hint: raise -c"),
        (["-d", "1s", "-n", "5", URL], "-d and -n both say when to end; hint: give one of them"),
        (["--arrivals", "poisson", URL], "--arrivals is for an open loop; hint: give a --rate"),
        (["--seed", "1", URL], "--seed is for --arrivals poisson; there is nothing else that is random"),
        (["-d", "soon", URL], "--duration 'soon' is not a duration; hint: write 10s, 500ms or 2m"),
        (["-d", "0s", URL], "--duration '0s' is no time at all"),
        (["--timeout", "-1", URL], "--timeout '-1' is not a duration; hint: write 10s, 500ms or 2m"),
        (["--expect", "2x", URL], "--expect '2x' is no status; hint: write 200 or 2xx"),
        (["--fail-if", "p99=3", URL], f"--fail-if 'p99=3' is not a condition; {CONDITIONS}"),
        (["--fail-if", "p101>1s", URL], f"--fail-if 'p101>1s': `p101` is not measured; {CONDITIONS}"),
        (["--fail-if", "speed>1", URL], f"--fail-if 'speed>1': `speed` is not measured; {CONDITIONS}"),
        (["--fail-if", "rate<x", URL], f"--fail-if 'rate<x': 'x' is not a number; {CONDITIONS}"),
        (["-H", "no colon", URL], "--header 'no colon' has no colon; hint: write 'Name: value'"),
        (
            ["-H", "Connection: close", URL],
            "`connection` is not for a header field to say; hint: --no-keepalive closes connections",
        ),
        (
            ["-H", "Content-Length: 3", URL],
            "`content-length` is not for a header field to say; hint: the length is that of --body",
        ),
        (["-H", "a b: c", URL], "`a b` is not the name of a header field"),
        (
            ["-X", "CONNECT", URL],
            "a tunnel is no request that could be answered again and again: CONNECT is not supported",
        ),
        (["--body", "@/nowhere", URL], "--body /nowhere cannot be read: No such file or directory"),
        (["--insecure", URL], "--insecure is for https; 127.0.0.1:1 is asked in the clear"),
        (["--cacert", "x", URL], "--cacert is for https; 127.0.0.1:1 is asked in the clear"),
        (["--cert", "x", HTTPS], "--cert and --key belong together; hint: give both"),
        (["-k", "--cacert", "x", HTTPS], "--insecure takes any certificate, --cacert does not; hint: give one of them"),
        (["--cacert", "/nowhere", HTTPS], "--cacert /nowhere cannot be read: No such file or directory"),
        (["--resolve", "a:80", "http://a/"], "--resolve 'a:80' is not HOST:PORT:ADDRESS"),
        ([URL], "cannot connect to 127.0.0.1:1: connection refused"),
    ],
)
def test_a_wrong_argument_is_told(arguments: list[str], problem: str) -> None:
    done = CliRunner().invoke(main, ["bench", *arguments])
    assert done.output == f"error: {problem}\n"
    assert done.exit_code == 1


def test_what_is_no_certificate_is_told(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_text("no root")
    done = CliRunner().invoke(main, ["bench", "--cacert", str(tmp_path / "root.pem"), HTTPS])
    assert done.output == "error: secret `--cacert`: it holds no `BEGIN CERTIFICATE` section\n"


def test_a_picture_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(main, ["bench", "--png", "x.png", URL])
    assert done.output == (
        "error: --png needs matplotlib, which is not installed; hint: pip install 'pymesh-proxy[bench]'\n"
    )


def test_urls() -> None:
    found = target.parse(["http://A.test:80/x?y=1", "http://a.test"])
    assert (found.scheme, found.host, found.port, found.authority) == ("http", "a.test", 80, "A.test:80")
    assert found.paths == ("/x?y=1", "/")
    assert target.parse(["https://[::1]/"]).port == 443
    assert target.address(target.parse(["https://[::1]:8443/"])) == "[::1]:8443"
    assert (
        target.address(target.parse(["http://a.test:8/"]), ["b.test:8:10.0.0.1", "a.test:8:10.0.0.2"]) == "10.0.0.2:8"
    )


def test_requests() -> None:
    where = target.parse(["http://a.test/x", "http://a.test/y"])
    one, two = target.requests(where, None, ["Host: b.test", "X-A:  1 "], "body")
    assert (one.method, one.authority, one.path, one.headers, one.body) == (
        "POST",
        "b.test",
        "/x",
        [("x-a", "1")],
        b"body",
    )
    assert two.path == "/y"
    assert target.requests(where, None, [], None)[0].method == "GET"
    assert target.requests(where, "PUT", [], "")[0].method == "PUT"
