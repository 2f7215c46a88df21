"""What TLS of a sidecar and of a gateway offers is what `docs/guide/security.md` promises, and no more.

sslyze, openssl and Envoy's own client ask; the table of the guide is read, so that neither can change without the
other.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.proxy import mesh_tls
from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import ours, proxy
from tests.tools.certificates import Authority, KeyPair
from tests.tools.peers import ROOT, peer
from tests.tools.ports import free_port, free_ports
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import origin

NAME, IDENTITY = "gateway.example", "spiffe://cluster.local/ns/shop/sa/web"
SIDECAR, GATEWAY = "a sidecar's inbound port", "a gateway's port"
HYBRID = "X25519MLKEM768"
_PROTOCOLS = ["h2", "http/1.1", "http/1.0", "h3", "spdy/3", "istio", "acme-tls/1"]
_SCANS = ["sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3", "elliptic_curves", "compression", "reneg"]
_SCANS += ["early_data", "heartbleed", "robot", "openssl_ccs", "ems", "certinfo"]


@dataclass(frozen=True)
class Port:
    """Where the same is offered: once for each kind of key; with what a client comes."""

    numbers: tuple[int, ...]
    client: KeyPair | None
    authority: Authority

    def s_client(self, *arguments: str, number: int = 0, with_certificate: bool = True) -> str:
        """All that openssl tells of a connection with a request."""
        command = [peer("openssl"), "s_client", "-connect", f"127.0.0.1:{number or self.numbers[0]}"]
        command += ["-servername", NAME, "-CAfile", str(self.authority.root), "-ign_eof", *arguments]
        if self.client and with_certificate:
            command += ["-cert", str(self.client.chain), "-key", str(self.client.key)]
        # The answer ends the connection; tickets come before it.
        asked = "GET / HTTP/1.1\r\nhost: origin\r\nconnection: close\r\n\r\n"
        done = subprocess.run(command, input=asked.encode(), capture_output=True, timeout=60, check=False)
        return (done.stdout + done.stderr).decode(errors="replace")

    def scanned(self, folder: Path) -> list[dict[str, Any]]:
        """sslyze's results, one for each kind of key."""
        found = []
        for number in self.numbers:
            out = folder / f"{number}.json"
            command = [peer("sslyze"), "--quiet", "--mozilla_config", "disable", "--json_out", str(out), "--sni", NAME]
            command += [f"--{scan}" for scan in _SCANS]
            if self.client:
                command += ["--cert", str(self.client.chain), "--key", str(self.client.key)]
            done = subprocess.run(
                [*command, f"127.0.0.1:{number}"], capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            (result,) = json.loads(out.read_text())["server_scan_results"]
            assert result["scan_status"] == "COMPLETED", result
            completed = {name: one for name, one in result["scan_result"].items() if one["status"] == "COMPLETED"}
            assert len(completed) == len(_SCANS), result["scan_result"]
            found.append({name: one["result"] for name, one in completed.items()})
        return found


@pytest.fixture(scope="module")
def offering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Port]]:
    authority = Authority(tmp_path_factory.mktemp("offered"))
    own = authority.issue("own", dns=[NAME], uris=[IDENTITY])
    rsa = authority.issue("rsa", dns=[NAME], with_rsa=True)
    client = authority.issue("client", uris=["spiffe://cluster.local/ns/shop/sa/client"])
    numbers = free_ports(3)
    with origin() as behind:
        hosts = [virtual_host("all", [to_cluster("origin")])]
        with_rsa: Json = mesh_tls.gateway()
        with_rsa["typed_config"]["common_tls_context"]["tls_certificate_sds_secret_configs"] = [{"name": "rsa"}]
        sockets = [mesh_tls.sidecar(), mesh_tls.gateway(), with_rsa]
        listeners = [
            http_listener(number, hosts, name=f"listener-{number}", tls=socket)
            for number, socket in zip(numbers, sockets, strict=True)
        ]
        config = bootstrap(listeners, [cluster("origin", [behind.port])], free_port())
        pair = {"certificate_chain": {"filename": str(rsa.chain)}, "private_key": {"filename": str(rsa.key)}}
        config["static_resources"]["secrets"] = [
            *mesh_tls.secrets(own, authority.root),
            {"name": "rsa", "tls_certificate": pair},
        ]
        with ours(config):
            yield {
                SIDECAR: Port((numbers[0],), client, authority),
                GATEWAY: Port((numbers[1], numbers[2]), None, authority),
            }


def promised() -> dict[str, dict[str, list[str]]]:
    """The table of the guide: by port, what is offered in each respect."""
    text = (ROOT / "docs" / "guide" / "security.md").read_text()
    table = text.partition("## What is offered")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    (_, *ports), _, *lines = rows
    return {
        port: {line[0]: re.split(r", *", line[column].replace("`", "")) for line in lines}
        for column, port in enumerate(ports, 1)
    }


@pytest.mark.parametrize("which", [SIDECAR, GATEWAY])
def test_no_more_is_offered_than_promised(which: str, offering: dict[str, Port], tmp_path: Path) -> None:
    port, promise = offering[which], promised()[which]
    scans = port.scanned(tmp_path)
    suites: dict[str, set[str]] = {}
    for scan in scans:
        for name, one in scan.items():
            if found := re.fullmatch(r"(ssl|tls)_(\d)_(\d)_cipher_suites", name):
                version = f"{found[1].upper()} {found[2]}.{found[3]}"
                suites.setdefault(version, set()).update(
                    x["cipher_suite"]["name"] for x in one["accepted_cipher_suites"]
                )
    versions = [version for version, accepted in sorted(suites.items()) if accepted]
    plain = port.s_client("-status")
    bare = port.s_client(with_certificate=False)
    is_asked = "Requested Signature Algorithms" in bare
    found = {
        "versions": versions,
        "suites of TLS 1.3": sorted(suites["TLS 1.3"]),
        "suites of TLS 1.2": sorted(suites["TLS 1.2"]) or ["none"],
        "groups": _groups(port, tmp_path, scans),
        "ALPN": [one for one in _PROTOCOLS if f"ALPN protocol: {one}\n" in port.s_client("-alpn", one)],
        "client certificate": ["not asked for" if not is_asked else "optional" if "200 OK" in bare else "required"],
        "names of authorities": ["none" if "No client certificate CA names sent" in bare else "sent"],
        "sessions go on": [_resumption(port, versions, tmp_path)],
        "early data": [_yes(any(scan["tls_1_3_early_data"]["supports_early_data"] for scan in scans))],
        "renegotiation": [
            _yes(any(scan["session_renegotiation"]["client_renegotiations_success_count"] for scan in scans))
        ],
        "compression": [_yes(any(scan["tls_compression"]["supports_compression"] for scan in scans))],
        "OCSP response": ["none" if "OCSP response: no response sent" in plain else "stapled"],
    }
    assert found == {row: sorted(values) if "suites" in row else values for row, values in promise.items()}
    for scan in scans:
        assert not scan["heartbleed"]["is_vulnerable_to_heartbleed"]
        assert not scan["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
        assert scan["robot"]["robot_result"] == "NOT_VULNERABLE_RSA_NOT_SUPPORTED"
        assert scan["tls_extended_master_secret"]["supports_ems_extension"]


def test_the_leaf_is_the_one_that_was_issued(offering: dict[str, Port]) -> None:
    for which, port in offering.items():
        shown = port.s_client()
        leaf = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", shown, re.DOTALL)
        assert leaf and "Verify return code: 0 (ok)" in shown, which
        command = [peer("openssl"), "x509", "-noout", "-ext", "subjectAltName"]
        names = subprocess.run(command, input=leaf[0], capture_output=True, text=True, check=True).stdout
        assert sorted(re.findall(r"(?:DNS|URI|IP Address|email):[^,\s]+", names)) == [f"DNS:{NAME}", f"URI:{IDENTITY}"]


def _groups(port: Port, folder: Path, scans: list[dict[str, Any]]) -> list[str]:
    """Those of sslyze, and the hybrid one, which its OpenSSL does not know: Envoy asks for nothing else."""
    rejected = {one["name"] for scan in scans for one in scan["elliptic_curves"]["rejected_curves"]}
    assert {"secp521r1", "X448", "secp256k1"} <= rejected, rejected
    found = {one["name"] for scan in scans for one in scan["elliptic_curves"]["supported_curves"]}
    listener, admin = free_ports(2)
    asking: Json = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": NAME,
        "common_tls_context": {
            "tls_params": {"ecdh_curves": [HYBRID], "tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": {"trusted_ca": {"filename": str(port.authority.root)}},
        },
    }
    if port.client:
        own = {"certificate_chain": {"filename": str(port.client.chain)}}
        own["private_key"] = {"filename": str(port.client.key)}
        asking["common_tls_context"]["tls_certificates"] = [own]
    to_it = cluster("asked", [port.numbers[0]], tls={"name": "envoy.transport_sockets.tls", "typed_config": asking})
    hosts = [virtual_host("all", [to_cluster("asked")])]
    with proxy("envoy", bootstrap([http_listener(listener, hosts)], [to_it], admin)) as envoy:
        status = fetch(listener, Request("GET", "/", "origin")).status
        if status == 200 and envoy.stats().get(f"cluster.asked.ssl.curves.{HYBRID}"):
            found.add(HYBRID)
    order = [HYBRID, "X25519", "secp256r1", "secp384r1"]
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def _resumption(port: Port, versions: list[str], folder: Path) -> str:
    """Whether a second connection goes on from the first."""
    outcomes = set()
    for number in port.numbers:
        for version in versions:
            session = folder / f"{number}-{version}.session"
            option = f"-{version.lower().replace(' ', '').replace('.', '_')}"
            first = port.s_client(option, "-sess_out", str(session), number=number)
            assert "200 OK" in first, first
            if not session.exists():
                outcomes.add("never")
                continue
            again = port.s_client(option, "-sess_in", str(session), number=number)
            assert "200 OK" in again, again
            outcomes.add("by tickets" if "\nReused, " in again else "never")
    (outcome,) = outcomes
    return outcome


def _yes(there: bool) -> str:
    return "yes" if there else "no"
