"""Captured traffic, in real network namespaces: unmodified clients and servers, the kernel's rules, a proxy between.

Every test runs with our proxy in both modes, and with Envoy on the same bootstrap under the same rules: what it does
for those who know nothing of it is what ours has to do.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.capture.bootstrap import INBOUND, OUTBOUND, VIRTUAL_IP, sidecar
from tests.capture.pod import EXCLUDED_INBOUND, EXCLUDED_PORT, RULES, Sidecar, get, http, servers, start
from tests.capture.world import ANYWHERE, ELSEWHERE, POD, PROXY, WORLD, namespaces, url
from tests.proxy.running import eventually, pymesh
from tests.tools.peers import peer


@pytest.fixture(scope="module", params=["pymesh REDIRECT", "pymesh TPROXY", "envoy REDIRECT"])
def sidecar_(request: pytest.FixtureRequest) -> Iterator[Sidecar]:
    kind, mode = request.param.split()
    with start(kind, sidecar(transparent=mode == "TPROXY"), mode, RULES) as made:
        yield made


version = pytest.mark.parametrize("version", [4, 6])


@version
def test_http_goes_where_its_host_says(sidecar_: Sidecar, version: int) -> None:
    status, headers, body = get(sidecar_.pod, url(ANYWHERE[version], 80), "-H", "host: known.test")
    assert (status, headers["x-out"]) == (200, "yes")
    assert body[:2] == [WORLD[4], "8081"]


@version
def test_http_to_an_unknown_host_goes_where_the_client_wanted(sidecar_: Sidecar, version: int) -> None:
    for _ in range(2):
        status, headers, body = get(sidecar_.pod, url(ANYWHERE[version], 80), "-H", "host: unknown.test")
        assert (status, headers["x-out"]) == (200, "yes")
        assert body == [ANYWHERE[version], "80", POD[version], "unknown.test"]


@version
def test_http_on_any_other_port_passes_as_it_is(sidecar_: Sidecar, version: int) -> None:
    before = sidecar_.count("tcp.passthrough.downstream_cx_total")
    status, headers, body = get(sidecar_.pod, url(ANYWHERE[version], 8888))
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
    status, _, _ = get(sidecar_.pod, url(ELSEWHERE[version], 80), "-H", "host: unknown.test")
    assert status == 200


@version
def test_http_comes_in_through_the_proxy(sidecar_: Sidecar, version: int) -> None:
    status, headers, body = get(sidecar_.world, url(POD[version], 8080))
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
        status, headers, body = get(sidecar_.pod, url(address, 8080))
        assert (status, "x-in" in headers, "x-out" in headers) == (200, False, False)
        assert body[0] == address


def test_the_proxy_calls_its_own_application_as_anybody_else(sidecar_: Sidecar) -> None:
    status, headers, body = get(sidecar_.pod, url(ANYWHERE[4], 80), "-H", "host: own.test")
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
    for address, port in ((ANYWHERE[version], EXCLUDED_PORT), (ELSEWHERE[version], 80)):
        status, headers, body = get(sidecar_.pod, url(address, port))
        assert (status, body[:3]) == (200, [address, str(port), POD[version]])
        assert "x-out" not in headers
    # The proxy's own user.
    done = sidecar_.pod.curl(url(ANYWHERE[version], 80), user=PROXY)
    assert "x-out" not in http(done.stdout)[1]
    hello, _ = sidecar_.world.talk(POD[version], EXCLUDED_INBOUND)
    assert hello == f"hello {POD[version]} {EXCLUDED_INBOUND} {WORLD[version]}"
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

    get(sidecar_.pod, url(ANYWHERE[4], 80), "-H", "host: unknown.test")
    assert eventually(lambda: open_upstream() == 0, 60)
    assert eventually(lambda: not any(sidecar_.count(f"cluster.{name}.membership_total") for name in _ORIGINAL), 60)


_ORIGINAL = ("PassthroughCluster", "InboundPassthroughCluster")


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_the_command_and_what_happens_without_a_proxy(mode: str) -> None:
    with namespaces(f"c{mode[0]}") as made, servers(made.world, [80], []), servers(made.pod, [8080], []):
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
