"""Captured traffic, in real network namespaces: unmodified clients and servers, the kernel's rules, a proxy between.

Every test runs with our proxy in both modes, and with Envoy on the same bootstrap under the same rules: what it does
for those who know nothing of it is what ours has to do.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.capture.bootstrap import ADMIN, INBOUND, OUTBOUND, VIRTUAL_IP, sidecar
from tests.capture.world import ANYWHERE, ELSEWHERE, POD, PROXY, WORLD, Namespace, World, namespaces, url
from tests.proxy.running import command, eventually, pymesh
from tests.tools.nginx import nginx
from tests.tools.peers import peer
from tests.tools.processes import Running, running

#: HTTP servers say by which address they were called, by whom, and for which host.
_HTTP = """
    server {{ {listens} location / {{ return 200 "$server_addr $server_port $remote_addr $host\\n"; }} }}
"""
_EXCLUDED_PORT, _EXCLUDED_INBOUND = 8443, 9100
_RULES = [
    "--exclude-outbound-ports",
    str(_EXCLUDED_PORT),
    "--exclude-outbound-cidrs",
    f"{ELSEWHERE[4]}/32,{ELSEWHERE[6]}/128",
    "--exclude-inbound-ports",
    str(_EXCLUDED_INBOUND),
]


@dataclass(frozen=True)
class Sidecar:
    """The pod with everything in it, and the world around it."""

    kind: str
    pod: Namespace
    world: Namespace
    proxy: Running

    def stats(self) -> dict[str, int]:
        """The proxy's numbers."""
        text = self.pod.curl(url("127.0.0.1", ADMIN, "/stats")).stdout
        return {name: int(value) for name, value in re.findall(r"^([^\s:]+): (\d+)\r?$", text, re.MULTILINE)}

    def count(self, name: str) -> int:
        """One of them."""
        return self.stats().get(name, 0)


@contextmanager
def _servers(where: Namespace, http: list[int], tcp: list[int]) -> Iterator[None]:
    listens = " ".join(f"listen {port}; listen [::]:{port};" for port in http)
    speaker = [sys.executable, str(Path(__file__).with_name("speaker.py")), *map(str, tcp)]
    with nginx(_HTTP.format(listens=listens), [], prefix=where.argv([])), running(where.argv(speaker)):
        assert eventually(lambda: all(where.listens(port) for port in [*http, *tcp]), 60)
        yield


@contextmanager
def _sidecar(kind: str, mode: str) -> Iterator[Sidecar]:
    with ExitStack() as stack:
        made: World = stack.enter_context(namespaces(f"{kind[0]}{mode[0]}"))
        stack.enter_context(_servers(made.world, [80, 8081, 8888, _EXCLUDED_PORT], [3307, 9999]))
        stack.enter_context(_servers(made.pod, [8080], [9000, _EXCLUDED_INBOUND]))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capture-")))
        folder.chmod(0o755)
        file = folder / "bootstrap.json"
        file.write_text(json.dumps(sidecar(transparent=mode == "TPROXY")))
        caps = ["net_admin"] if mode == "TPROXY" else []
        argv = made.pod.argv(command(kind, file, 2), PROXY, caps)
        proxy = stack.enter_context(running(argv, title=kind))
        if not eventually(lambda: made.pod.listens(INBOUND) and made.pod.listens(OUTBOUND), 90):
            raise RuntimeError(f"{kind} does not listen:\n{proxy.tail()}")
        made.pod.run(*pymesh(), "capture", "on", "--mode", mode, *_RULES)
        yield Sidecar(kind, made.pod, made.world, proxy)


@pytest.fixture(scope="module", params=["pymesh REDIRECT", "pymesh TPROXY", "envoy REDIRECT"])
def sidecar_(request: pytest.FixtureRequest) -> Iterator[Sidecar]:
    kind, mode = request.param.split()
    with _sidecar(kind, mode) as made:
        yield made


version = pytest.mark.parametrize("version", [4, 6])


def _http(answer: str) -> tuple[int, dict[str, str], list[str]]:
    """Status, headers, and the words of the body."""
    head, _, body = answer.partition("\n\n")  # what was read as text has no CR any more
    first, *lines = head.split("\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, body.split()


def _get(where: Namespace, target: str, *arguments: str) -> tuple[int, dict[str, str], list[str]]:
    done = where.curl(target, *arguments)
    assert done.returncode == 0, done.stderr
    return _http(done.stdout)


@version
def test_http_goes_where_its_host_says(sidecar_: Sidecar, version: int) -> None:
    status, headers, body = _get(sidecar_.pod, url(ANYWHERE[version], 80), "-H", "host: known.test")
    assert (status, headers["x-out"]) == (200, "yes")
    assert body[:2] == [WORLD[4], "8081"]


@version
def test_http_to_an_unknown_host_goes_where_the_client_wanted(sidecar_: Sidecar, version: int) -> None:
    for _ in range(2):
        status, headers, body = _get(sidecar_.pod, url(ANYWHERE[version], 80), "-H", "host: unknown.test")
        assert (status, headers["x-out"]) == (200, "yes")
        assert body == [ANYWHERE[version], "80", POD[version], "unknown.test"]


@version
def test_http_on_any_other_port_passes_as_it_is(sidecar_: Sidecar, version: int) -> None:
    before = sidecar_.count("tcp.passthrough.downstream_cx_total")
    status, headers, body = _get(sidecar_.pod, url(ANYWHERE[version], 8888))
    assert (status, "x-out" in headers) == (200, False)
    assert body[:3] == [ANYWHERE[version], "8888", POD[version]]
    assert sidecar_.count("tcp.passthrough.downstream_cx_total") == before + 1


@version
def test_tcp_to_a_virtual_address_goes_to_its_cluster(sidecar_: Sidecar, version: int) -> None:
    hello, answer = sidecar_.pod.talk(VIRTUAL_IP[version], 3306)
    assert hello == f"hello {WORLD[4]} 3307 {POD[4]}"
    assert answer == "ping"


@version
def test_a_server_that_nobody_configured_may_speak_first(sidecar_: Sidecar, version: int) -> None:
    before = sidecar_.count("tcp.passthrough.downstream_cx_total")
    hello, answer = sidecar_.pod.talk(ANYWHERE[version], 9999)
    assert (hello, answer) == (f"hello {ANYWHERE[version]} 9999 {POD[version]}", "ping")
    assert sidecar_.count("tcp.passthrough.downstream_cx_total") == before + 1


@version
def test_an_address_where_nobody_listens_is_refused(sidecar_: Sidecar, version: int) -> None:
    assert sidecar_.pod.curl(url(ANYWHERE[version], 81)).returncode != 0
    # The connection to the proxy is there before the one to the server is not.
    status, _, _ = _get(sidecar_.pod, url(ELSEWHERE[version], 80), "-H", "host: unknown.test")
    assert status == 200


@version
def test_http_comes_in_through_the_proxy(sidecar_: Sidecar, version: int) -> None:
    status, headers, body = _get(sidecar_.world, url(POD[version], 8080))
    assert (status, headers["x-in"]) == (200, "yes")
    assert body[:3] == [POD[version], "8080", {4: "127.0.0.6", 6: "::6"}[version]]


@version
def test_tcp_comes_in_through_the_proxy(sidecar_: Sidecar, version: int) -> None:
    hello, answer = sidecar_.world.talk(POD[version], 9000)
    assert hello == f"hello {POD[version]} 9000 {({4: '127.0.0.6', 6: '::6'})[version]}"
    assert answer == "ping"


@version
def test_the_application_calls_itself_without_the_proxy(sidecar_: Sidecar, version: int) -> None:
    for address in (POD[version], {4: "127.0.0.1", 6: "::1"}[version]):
        status, headers, body = _get(sidecar_.pod, url(address, 8080))
        assert (status, "x-in" in headers, "x-out" in headers) == (200, False, False)
        assert body[0] == address


def test_the_proxy_calls_its_own_application_as_anybody_else(sidecar_: Sidecar) -> None:
    status, headers, body = _get(sidecar_.pod, url(ANYWHERE[4], 80), "-H", "host: own.test")
    assert (status, headers["x-out"], headers["x-in"]) == (200, "yes", "yes")
    assert body[:3] == [POD[4], "8080", "127.0.0.6"]


@version
def test_what_is_excluded_bypasses_the_proxy(sidecar_: Sidecar, version: int) -> None:
    def taken() -> int:
        names = (
            "http.out.downstream_cx_total",
            "tcp.passthrough.downstream_cx_total",
            "tcp.in-tcp.downstream_cx_total",
        )
        numbers = sidecar_.stats()
        return sum(numbers.get(name, 0) for name in names)

    before = taken()
    for address, port in ((ANYWHERE[version], _EXCLUDED_PORT), (ELSEWHERE[version], 80)):
        status, headers, body = _get(sidecar_.pod, url(address, port))
        assert (status, body[:3]) == (200, [address, str(port), POD[version]])
        assert "x-out" not in headers
    # The proxy's own user.
    done = sidecar_.pod.curl(url(ANYWHERE[version], 80), user=PROXY)
    assert "x-out" not in _http(done.stdout)[1]
    hello, _ = sidecar_.world.talk(POD[version], _EXCLUDED_INBOUND)
    assert hello == f"hello {POD[version]} {_EXCLUDED_INBOUND} {WORLD[version]}"
    assert taken() == before


def test_who_asks_for_the_proxy_itself_is_refused_and_counted(sidecar_: Sidecar) -> None:
    if sidecar_.kind == "envoy":
        return  # it would call itself until it has no socket left: Istio writes a filter chain against that
    before = sidecar_.stats()
    for where, address, port in ((sidecar_.pod, ANYWHERE[4], OUTBOUND), (sidecar_.world, POD[4], INBOUND)):
        assert where.curl(url(address, port)).returncode != 0
    after = sidecar_.stats()
    for cluster in ("PassthroughCluster", "InboundPassthroughCluster"):
        name = f"cluster.{cluster}.original_dst_loop"
        assert after[name] == before[name] + 1


def test_connections_to_addresses_that_nobody_asks_for_are_closed(sidecar_: Sidecar) -> None:
    if sidecar_.kind == "envoy":
        return  # it keeps an address for as long as a pooled connection to it, an hour by default

    def open_upstream() -> int:
        numbers = sidecar_.stats()
        return sum(numbers[f"cluster.{name}.upstream_cx_active"] for name in _ORIGINAL)

    _get(sidecar_.pod, url(ANYWHERE[4], 80), "-H", "host: unknown.test")
    assert eventually(lambda: open_upstream() == 0, 60)
    assert eventually(lambda: not any(sidecar_.count(f"cluster.{name}.membership_total") for name in _ORIGINAL), 60)


_ORIGINAL = ("PassthroughCluster", "InboundPassthroughCluster")


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_the_command_and_what_happens_without_a_proxy(mode: str) -> None:
    with namespaces(f"c{mode[0]}") as made, _servers(made.world, [80], []), _servers(made.pod, [8080], []):
        capture = [*pymesh(), "capture"]

        def rules() -> str:
            routing = [made.pod.run(peer("ip"), family, "rule").stdout for family in ("-4", "-6")]
            addresses = made.pod.run(peer("ip"), "address", "show", "dev", "lo").stdout
            return made.pod.run(peer("nft"), "list", "ruleset").stdout + "".join(routing) + addresses

        untouched = rules()
        assert made.pod.run(*capture, "show").stdout == "capture is off\n"
        made.pod.run(*capture, "off")
        assert rules() == untouched
        made.pod.run(*capture, "on", "--mode", mode)
        once = rules()
        made.pod.run(*capture, "on", "--mode", mode)
        assert rules() == once != untouched
        shown = made.pod.run(*capture, "show").stdout
        assert "table inet pymesh" in shown
        assert ("fwmark" in shown) == (mode == "TPROXY")

        # Captured connections fail; nothing finds a way around.
        short = ("-m", "3")
        assert made.world.curl(url(POD[4], 8080), *short).returncode != 0
        assert made.pod.curl(url(ANYWHERE[6], 80), *short).returncode != 0
        assert made.pod.curl(url("127.0.0.1", 8080)).returncode == 0

        # From one mode to the other and back nothing is left of the first.
        made.pod.run(*capture, "on", "--mode", "REDIRECT" if mode == "TPROXY" else "TPROXY")
        made.pod.run(*capture, "on", "--mode", mode)
        assert rules() == once
        made.pod.run(*capture, "off")
        assert rules() == untouched
        assert made.world.curl(url(POD[4], 8080)).returncode == 0

        refused = made.pod.run(*capture, "on", user=PROXY, check=False)
        assert refused.returncode == 1
        assert "hint: run it as root, or with CAP_NET_ADMIN" in refused.stderr
