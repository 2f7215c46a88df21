"""Nobody gets in with a bad certificate, as a client or as a server, and each is told for what reason.

What judges is configured as our control plane configures sidecars and gateways; Envoy judges the same, with the same
configuration. `certificate_cases.py` has the table.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.certificate_cases import CASES, ENVOY_ADMITS, Case, Pki
from tests.proxy import mesh_tls
from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, proxy
from tests.tools.bad_certificates import HOST, IDENTITY, pem, write
from tests.tools.certificates import KeyPair
from tests.tools.ports import free_ports
from tests.tools.presenting import Servers, Shown, request
from tests.tools.wire.origin import Origin, origin

PLACES = ("inbound", "outbound", "gateway")
#: The alert that tells a reason (RFC 8446, section 6.2); `certificate_unknown` tells every other one.
ALERTS = {
    "no_certificate": "certificate_required",
    "key_not_proven": "decrypt_error",
    "certificate_expired": "certificate_expired",
    "certificate_not_yet_valid": "certificate_expired",
    "unknown_issuer": "unknown_ca",
    "unsupported_algorithm": "decrypt_error",
    "wrong_extended_key_usage": "unsupported_certificate",
    "unknown_critical_extension": "bad_certificate",
}
#: The counter of a reason; `fail_verify_error` counts every other one.
COUNTERS = {
    "no_certificate": "fail_verify_no_cert",
    "key_not_proven": "connection_error",
    "no_spiffe_id": "fail_verify_san",
    "several_uri_sans": "fail_verify_san",
    "invalid_spiffe_id": "fail_verify_san",
    "san_mismatch": "fail_verify_san",
}
#: Envoy finds these on another way, which it counts otherwise.
COUNTED_OTHERWISE = {
    ("for encipherment only", "inbound"): {"connection_error"},
    ("for encipherment only", "outbound"): {"connection_error"},
    ("octets behind it", "inbound"): {"connection_error"},
    ("octets behind it", "outbound"): {"connection_error"},
    ("octets behind it", "gateway"): {"connection_error"},
    ("embedded NUL in the host", "gateway"): {"fail_verify_san"},
}
_COUNTED = ("handshake", "connection_error", "fail_verify_no_cert", "fail_verify_error", "fail_verify_san")
_GOOD = Case("good", lambda pki: pki.leaf(), None, None, None)


@dataclass(frozen=True)
class Verdict:
    """What became of a connection with one certificate at one place."""

    #: A status line, or the alert with which it ended.
    outcome: str
    #: How many requests arrived behind the proxy, or at the server that showed the certificate.
    arrived: int
    counted: frozenset[str]
    #: What the access log says of it.
    said: str

    @property
    def is_in(self) -> bool:
        """Whether the request was answered by the other side."""
        return self.outcome == "HTTP/1.1 200 OK"


Verdicts = dict[tuple[str, str], Verdict]


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


@pytest.fixture(scope="module")
def shown(pki: Pki) -> dict[str, Shown]:
    """Everything that is shown, by the name of its case."""
    made = {case.name: case.make(pki) for case in [_GOOD, *CASES]}
    return {name: Shown.of(*(one if isinstance(one, tuple) else (one,))) for name, one in made.items()}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, pki: Pki, shown: dict[str, Shown]) -> Verdicts:
    return judged("pymesh", tmp_path_factory.mktemp("pymesh"), pki, shown)


@pytest.fixture(scope="module")
def envoys(tmp_path_factory: pytest.TempPathFactory, pki: Pki, shown: dict[str, Shown]) -> Verdicts:
    return judged("envoy", tmp_path_factory.mktemp("envoy"), pki, shown)


def judged(kind: str, folder: Path, pki: Pki, shown: dict[str, Shown]) -> Verdicts:
    """Show everything everywhere to a proxy of this kind."""
    bundle = folder / "roots.pem"
    bundle.write_text(pem(pki.root.der) + pem(pki.rsa_root.der))
    own = write(folder, "own", pki.leaf(uris=["spiffe://cluster.local/ns/shop/sa/web"], dns=["localhost"]))
    names = {name: f"case-{number:03}.test" for number, name in enumerate(shown)}
    servers = Servers({names[name]: one for name, one in shown.items() if one.chain})
    with origin() as behind, servers.serving():
        ports = free_ports(4)
        config = _config(folder, own, bundle, ports, behind.port, servers.port, names)
        with proxy(kind, config) as started:
            seen = {name: _show(started, ports, name, one, behind, servers, names) for name, one in shown.items()}
        said = {place: _lines(folder / f"{place}.log") for place in PLACES}
    return {
        (name, place): Verdict(outcome, arrived, counted, said[place][key])
        for name, of_places in seen.items()
        for place, (outcome, arrived, counted, key) in of_places.items()
    }


_Seen = dict[str, tuple[str, int, frozenset[str], str]]


def _show(
    started: Proxy, ports: list[int], name: str, one: Shown, behind: Origin, servers: Servers, names: dict[str, str]
) -> _Seen:
    """One certificate at each place: outcome, requests that arrived, what was counted, key of its log line."""
    seen: _Seen = {}
    before = _counters(started)
    for place, port, version in (("inbound", ports[0], (3, 4)), ("gateway", ports[2], (3, 3))):
        arrived = len(behind.requests)
        client, outcome = request(port, one, version)
        after = _counters(started)
        seen[place] = (outcome, len(behind.requests) - arrived, _grown(before, after), f"127.0.0.1:{client}")
        before = after
    if one.chain:
        path = f"/{names[name]}/"
        with socket.create_connection(("127.0.0.1", ports[1]), timeout=60) as plain:
            plain.sendall(f"GET {path} HTTP/1.1\r\nhost: origin\r\nconnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: plain.recv(65536), b""))
        status = answer.partition(b"\r\n")[0].decode()
        asked, outcome = servers.outcomes.get(timeout=60)
        assert asked == names[name]
        assert (status == "HTTP/1.1 200 OK") == (outcome == "asked"), (status, outcome)
        arrived = int(outcome == "asked")
        seen["outbound"] = (status if arrived else outcome, arrived, _grown(before, _counters(started)), path)
    return seen


def _counters(started: Proxy) -> dict[str, int]:
    """Of TLS, of all listeners and clusters."""
    return {name: value for name, value in started.stats().items() if ".ssl." in name and name.endswith(_COUNTED)}


def _grown(before: dict[str, int], after: dict[str, int]) -> frozenset[str]:
    return frozenset(
        name.rpartition(".")[2] for name, value in after.items() for _ in range(value - before.get(name, 0))
    )


def _lines(log: Path) -> dict[str, str]:
    """What the log says, by the first word of its lines."""
    return dict(line.split(" ", 1) for line in log.read_text().splitlines())


def _config(
    folder: Path, own: KeyPair, bundle: Path, ports: list[int], behind: int, shower: int, names: dict[str, str]
) -> Json:
    """TLS as the control plane has it; its secrets stand in the bootstrap."""
    connection = "%DOWNSTREAM_REMOTE_ADDRESS% %BYTES_RECEIVED% %DOWNSTREAM_TRANSPORT_FAILURE_REASON%\n"
    exchange = "%REQ(:PATH)% %RESPONSE_FLAGS% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n"
    edge = mesh_tls.gateway(mode="MUTUAL", subject_alt_names=(HOST,))
    to_origin = [virtual_host("all", [to_cluster("origin")])]
    to_servers = [virtual_host("all", [to_cluster(name, f"/{name}/") for name in names.values()])]
    listeners = [
        http_listener(ports[0], to_origin, name="inbound", tls=mesh_tls.sidecar()),
        http_listener(
            ports[1], to_servers, name="outbound", access_log=[access_log(folder / "outbound.log", exchange)]
        ),
        http_listener(ports[2], to_origin, name="gateway", tls=edge),
    ]
    for listener in (listeners[0], listeners[2]):
        listener["access_log"] = [access_log(folder / f"{listener['name']}.log", connection)]
    clusters = [cluster("origin", [behind])]
    for name in names.values():
        clusters.append(cluster(name, [shower], tls=mesh_tls.client(IDENTITY, name)))
    config = bootstrap(listeners, clusters, ports[3])
    config["static_resources"]["secrets"] = mesh_tls.secrets(own, bundle)
    return config


def _reasons() -> Iterator[tuple[Case, str, str]]:
    for case in CASES:
        for place in PLACES:
            if reason := getattr(case, place):
                yield case, place, reason


def test_the_good_one_gets_in(ours: Verdicts, envoys: Verdicts) -> None:
    for verdicts in (ours, envoys):
        for place in PLACES:
            verdict = verdicts["good", place]
            assert verdict.is_in and verdict.arrived == 1, (place, verdict)
            assert "handshake" in verdict.counted
    for place in ("inbound", "gateway"):
        assert ours["good", place].said == envoys["good", place].said, "octets of the request, without what TLS adds"


def test_each_bad_one_is_refused_for_its_own_reason(ours: Verdicts) -> None:
    assert len(CASES) > 50
    wrong = []
    for case, place, reason in _reasons():
        verdict = ours[case.name, place]
        wanted = (ALERTS.get(reason, "certificate_unknown"), 0, {COUNTERS.get(reason, "fail_verify_error")})
        found = (verdict.outcome, verdict.arrived, verdict.counted)
        flags_or_octets = "UF" if place == "outbound" else "0"
        told = verdict.said.startswith(f"{flags_or_octets} the peer's certificate was refused: {reason}: ")
        if found != wanted or not told:
            wrong.append((case.name, place, reason, verdict))
    assert wrong == []


def test_where_a_certificate_is_no_worse_it_gets_in(ours: Verdicts) -> None:
    """Or the change that is meant would not be what refuses it elsewhere."""
    harmless = [(case.name, place) for case in CASES for place in PLACES if getattr(case, place) is None]
    wrong = [one for one in harmless if one in ours and not ours[one].is_in]
    assert wrong == []


def test_envoy_refuses_the_same_and_counts_the_same(ours: Verdicts, envoys: Verdicts) -> None:
    wrong = []
    for case, place, _ in _reasons():
        one, other = ours[case.name, place], envoys[case.name, place]
        is_listed = place in ENVOY_ADMITS.get(case.name, ((), ""))[0]
        counted = COUNTED_OTHERWISE.get((case.name, place), one.counted)
        if other.is_in != is_listed or not (is_listed or (other.counted == counted and other.arrived == 0)):
            wrong.append((case.name, place, other))
    assert wrong == []


def test_what_is_listed_as_envoys_is_so(envoys: Verdicts) -> None:
    admitted = {(name, place) for name, (places, _) in ENVOY_ADMITS.items() for place in places}
    assert [one for one in admitted if not envoys[one].is_in] == []
