"""Compiled filters (`pymesh/filters/SPEC.md`) on a running proxy: the file that is compiled answers as the same file
interpreted, and a filter in plain C needs nothing but the header."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pymesh.authoring import build, file
from tests.filters import clicker
from tests.proxy.bootstrap import bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, ours
from tests.tools.ports import free_ports
from tests.tools.wire.client import Answer, fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import Origin, origin

SOURCE = '''
from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from pymesh.filters import Context, HttpFilter, Reply, Request, Response, When

USER = "x-user"


@dataclass
class Settings:
    refuse: str = "mallory"
    deny: tuple[str, ...] = ("oscar", "eve")
    longest: int = 40
    mark: str | None = None
    mode: Literal["strict", "lax"] = "strict"


class Gate(HttpFilter[Settings]):
    Config = Settings
    when = (When(":path", "prefix", "/gate/"),)

    def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
        """Every piece of the language that is compiled to C."""
        headers = request.headers
        user = headers.get(USER)
        if user is None:
            return Reply(401, b"who?\\n", {"www-authenticate": "Basic"})
        if user == self.config.refuse or user in self.config.deny:
            size = "short" if len(user) < 6 else "long"
            return Reply(403, f"not {user}\\n".encode(), headers={"x-user": user, "x-len": size})
        if len(user) > self.config.longest and self.config.mode == "strict":
            raise ValueError("too long")
        if user == "framer":
            headers["content-length"] = "7"
        if user == "splitter":
            headers["x-a"] = "b\\r\\nx-c: d"
        if user == "misser":
            del headers["x-not-there"]
        if user == "reader":
            request.headers["x-a"] = request.headers["x-not-there"]
        if user == "liar":
            return Reply(999)
        elif user in ("mover", "shaker"):
            request.path = "/moved" + request.path.removeprefix("/gate")
        elif user.startswith("http"):
            request.authority = "other.test"
        headers["x-asked-by"] = headers.get("user-agent", "nobody").lower()
        headers.add("x-asked-by", user.strip() or "nobody")
        headers["x-facts"] = f"{request.method} {request.scheme} {ctx.peer or '-'} {ctx.route}"
        headers["x-mark"] = self.config.mark or "none"
        if "x-secret" in headers and not user.endswith("!"):
            del headers["x-secret"]
        return None

    def on_response_headers(self, response: Response, ctx: Context) -> Reply | None:
        response.headers["x-thread"] = "python" if threading.current_thread() else ""
        return Reply(502, b"lost\\n") if response.status == 404 else None


class Marker(HttpFilter[dict]):
    def on_response_headers(self, response: Response, ctx: Context) -> None:
        response.headers["x-id"] = ctx.route or "unrouted"
        if response.status != 200 and response.headers.get("server") is not None:
            response.headers.add("x-marked", "of " + response.headers["server"])
'''

CASES = [
    ({"x-user": "alice"}, "/gate/"),
    ({"x-user": " alice ", "x-secret": "s", "user-agent": "Some AGENT\xc0"}, "/gate/?q=1"),
    ({"x-user": "bang!", "x-secret": "s"}, "/gate/"),
    ({}, "/gate/"),
    ({"x-user": ""}, "/gate/"),
    *(
        ({"x-user": name}, "/gate/")
        for name in ("mallory", "oscar", "eve", "liar", "framer", "splitter", "misser", "reader")
    ),
    ({"x-user": "mover"}, "/gate/a"),
    ({"x-user": "shaker"}, "/gate/a?b"),
    ({"x-user": "http"}, "/gate/"),
    ({"x-user": "u" * 41}, "/gate/"),
    ({"x-user": "mallory"}, "/elsewhere"),
]


@dataclass(frozen=True)
class Filtered:
    proxy: Proxy
    behind: Origin

    def ask(self, headers: dict[str, str], path: str) -> tuple[Answer, Any]:
        before = len(self.behind.requests)
        fields = [*headers.items(), ("x-request-id", "the-id")]
        answer = fetch(self.proxy.port, Request("GET", path, "a.test", fields))
        return answer, self.behind.requests[before:]


@contextmanager
def filtered(*filters: dict[str, Any]) -> Iterator[Filtered]:
    port, admin = free_ports(2)
    kind = "type.googleapis.com/pymesh.filters.v1.PythonFilter"
    chain = [{"name": f"f{at}", "typed_config": {"@type": kind, **one}} for at, one in enumerate(filters)]
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    with origin() as behind:
        hosts = [virtual_host("all", [to_cluster("origin")])]
        manager = {"http_filters": [*chain, {"name": "router", "typed_config": router}]}
        config = bootstrap([http_listener(port, hosts, **manager)], [cluster("origin", [behind.port])], admin)
        with ours(config) as proxy:
            yield Filtered(proxy, behind)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> build.Built:
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "gate_in_c.py").write_text(SOURCE)
    return build.build(file.read(folder / "gate_in_c.py"), folder / "build")


def test_hooks_are_compiled_unless_they_need_the_interpreter(built: build.Built) -> None:
    assert {str(hook): hook.why_not for hook in built.hooks} == {
        "Gate.on_request_headers": "",
        "Gate.on_response_headers": "`threading.current_thread()` is not compiled to C",
        "Marker.on_response_headers": "",
    }


@pytest.mark.parametrize("policy", ["CLOSED", "OPEN"])
def test_compiled_and_interpreted_answer_alike(
    policy: str, built: build.Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(built.library.parent))
    config = {"mark": "\xe9", "refuse": "mallory"}
    common = {"failure_policy": policy}
    source = {"source": SOURCE}
    compiled = [{"class": "gate_in_c:Gate", "config": config, **common}, {"class": "gate_in_c:Marker", **common}]
    interpreted = [
        {"class": "gate:Gate", "config": config, **common, **source},
        {"class": "gate:Marker", **common, **source},
    ]
    with filtered(*compiled) as one, filtered(*interpreted) as other:
        for headers, path in CASES:
            (answer, sent), (expected, expected_sent) = one.ask(headers, path), other.ask(headers, path)
            shown = [(got.status, got.body, got.header("x-user"), got.header("x-len"), got.header("x-thread"),
                      got.header("x-id"), got.header("x-marked")) for got in (answer, expected)]  # fmt: skip
            assert shown[0] == shown[1], (headers, path)
            assert [request.headers for request in sent] == [request.headers for request in expected_sent], headers
            assert [request.target for request in sent] == [request.target for request in expected_sent], headers
        # The origin's log of calls is that of the proxy: both count each hook.
        counts = [target.proxy.stats() for target in (one, other)]
        for name in ("calls", "failures", "replies"):
            assert counts[0][f"http.ingress.python_filter_{name}"] == counts[1][f"http.ingress.python_filter_{name}"]
        assert "ValueError: too long" in one.proxy.process.output()


@pytest.mark.parametrize("compiler", [["gcc", "-x", "c", "-std=c99"], ["g++", "-x", "c++", "-std=c++11"]])
def test_the_header_is_c_and_c_plus_plus(compiler: list[str]) -> None:
    text = '#include "pymesh_filter.h"\nint main(void) { return PYMESH_OK; }\n'
    strict = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only"]
    subprocess.run([*compiler, *strict, f"-I{clicker.HEADERS}", "-"], input=text, text=True, check=True)


def test_a_filter_in_plain_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clicker.build(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with filtered({"class": "clicker:Clicker", "config": {"name": "tick"}}) as target:
        answer, [sent] = target.ask({"X-Old": "1", "x-many": "a"}, "/c/")
        assert (answer.status, answer.header("x-status")) == (200, "200")
        fields = dict(sent.headers)
        assert fields["x-clicker"] == '{"name":"tick"}' and "x-old" not in fields
        # Text stays where it is, whatever is added: the path was read before 200 headers were.
        assert fields["x-path"] == "/c/" and fields["x-added-199"] == "v"
        assert fields["x-codes"] == "2 3 4 1 5 3" and fields["x-first"] == "x-old=1"
        answer, sent = target.ask({"x-reply": "1"}, "/c/")
        assert (answer.status, answer.body, answer.header("x-by"), sent) == (418, b"in C", "clicker", [])
        for way in ("fail", "nonsense", "no-reply"):
            assert target.ask({"x-way": way}, "/c/")[0].status == 500, way
        for words in ("as it was told to", "returned 77", "has given no reply"):
            assert words in target.proxy.process.output()
        calls = target.proxy.stats()["http.ingress.python_filter_calls"]
        assert target.ask({}, "/elsewhere")[0].status == 200
        assert target.proxy.stats()["http.ingress.python_filter_calls"] == calls


@pytest.mark.parametrize(
    ("defines", "name", "words"),
    [
        ([], "refuse", "`clicker:Clicker` cannot be made: clicker wants no such config"),
        (["-DNEWER"], "tick", "has hooks that this proxy does not know"),
        (["-DMISNAMED"], "tick", "PyCapsule_GetPointer called with incorrect name"),
    ],
)
def test_what_cannot_be_loaded_says_why(
    defines: list[str], name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clicker.build(tmp_path, *defines)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with filtered({"class": "clicker:Clicker", "config": {"name": name}}) as target:
        assert target.ask({}, "/c/")[0].status == 500
        assert words in target.proxy.process.output()
        assert target.proxy.process.alive()


def test_an_older_filter_has_fewer_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clicker.build(tmp_path, "-DOLDER")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with filtered({"class": "clicker:Clicker"}) as target:
        answer, [sent] = target.ask({}, "/c/")
        assert (answer.status, answer.header("x-status"), dict(sent.headers)["x-clicker"]) == (200, None, "{}")
