"""Identities at work: rotation under traffic, an operator's authority, and who may ask for which name."""

from __future__ import annotations

import json
import socket
import stat
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pymesh.control.identity import private_files
from pymesh.control.identity.authority import private_pem, self_signed
from pymesh.control.xds import server
from tests.proxy.running import Proxy, command, eventually, ours
from tests.tools.control import control_plane, tokens
from tests.tools.identity import IDENTITY, TOKEN, config, mesh, secured, shown
from tests.tools.ports import free_ports
from tests.tools.processes import running
from tests.tools.traffic import get, traffic
from tests.tools.wire.origin import origin

PATIENCE = 30.0


@contextmanager
def echo(port: int) -> Iterator[socket.socket]:
    """An open request whose pieces come back one by one."""
    head = "POST / HTTP/1.1\r\nhost: app\r\nx-want-echo: 1\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(head.encode())
        yield connection


def comes_back(connection: socket.socket, word: str) -> bool:
    """Whether a piece makes it there and back."""
    connection.sendall(f"{len(word):x}\r\n{word}\r\n".encode())
    seen = b""
    while word.encode() not in seen:
        piece = connection.recv(65536)
        if not piece:
            return False
        seen += piece
    return True


def leaf(proxy: Proxy) -> dict[str, Any]:
    """The proxy's own certificate, as its admin page shows it."""
    entries = json.loads(proxy.admin("/certs"))["certificates"]
    (chain,) = (entry["cert_chain"] for entry in entries if entry["cert_chain"])
    assert chain[0]["path"] == "default"
    found: dict[str, Any] = chain[0]
    return found


def test_certificates_rotate_while_traffic_runs(tmp_path: Path) -> None:
    outbound, inbound, admin = free_ports(3)
    settings = {"tokens": tokens(tmp_path, TOKEN), "certificate_lifetime": timedelta(seconds=10)}
    with origin() as app, control_plane(tmp_path, mesh(outbound, inbound, app.port), **settings) as plane:
        with ours(config(secured(plane, tmp_path), tmp_path, admin)) as proxy, echo(outbound) as held:
            assert comes_back(held, "before")
            (stream,) = plane.fleet.connections()
            first, serials = shown(inbound), {leaf(proxy)["serial_number"]}
            with traffic(outbound) as seen:

                def rotated() -> bool:
                    serials.add(leaf(proxy)["serial_number"])
                    return len(serials) >= 3

                assert eventually(rotated, PATIENCE), proxy.process.tail()
                # What was opened with the first certificate outlives it.
                assert eventually(lambda: datetime.now(UTC) > first.not_valid_after_utc, PATIENCE)
                assert shown(inbound).not_valid_after_utc > datetime.now(UTC)
                assert comes_back(held, "after")
            assert len(seen) > 1 and {status for status, _ in seen} == {200}
            # The same ADS stream all the while, though the server's certificate was renewed as well.
            assert plane.fleet.connections() == [stream]
    assert stat.S_IMODE((tmp_path / "state" / "ca" / "authority.json").stat().st_mode) == 0o600


def test_a_token_is_exchanged_while_the_proxy_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream ends with its token; the next one begins with what is in the proxy's file by then."""
    monkeypatch.setattr(server, "REAUTHENTICATE_SECONDS", 0.1)
    outbound, inbound, admin = free_ports(3)
    settings = {"tokens": tokens(tmp_path, TOKEN)}
    with origin() as app, control_plane(tmp_path, mesh(outbound, inbound, app.port), **settings) as plane:
        made = config(secured(plane, tmp_path), tmp_path, admin)
        (service,) = made["dynamic_resources"]["ads_config"]["grpc_services"]
        del service["initial_metadata"]
        with ours(made) as proxy, traffic(outbound) as seen:
            (stream,) = plane.fleet.connections()
            private_files.write(tmp_path / "token", b"another")
            tokens(tmp_path, "another")

            def again() -> bool:
                return bool(plane.fleet.connections()) and plane.fleet.connections() != [stream]

            assert eventually(again, PATIENCE), proxy.process.tail()
            assert "the token is not known" in proxy.process.output() and TOKEN not in proxy.process.output()
        assert {status for status, _ in seen} == {200}


def test_an_operators_authority_signs(tmp_path: Path) -> None:
    outbound, inbound, admin = free_ports(3)
    supplied = tmp_path / "supplied"
    root, between = operators(supplied)
    settings = {"tokens": tokens(tmp_path, TOKEN), "authority": supplied}
    with origin() as app, control_plane(tmp_path, mesh(outbound, inbound, app.port), **settings) as plane:
        assert plane.rotation.trust.signer.root == root
        with ours(config(secured(plane, tmp_path), tmp_path, admin)) as proxy:
            assert get(outbound)[0] == 200, proxy.process.tail()
            assert leaf(proxy)["subject_alt_names"] == [{"uri": IDENTITY}]
            certificate = shown(inbound)
            certificate.verify_directly_issued_by(between)
            between.verify_directly_issued_by(root)
        assert (tmp_path / "state" / "ca" / "root-cert.pem").read_text() == plane.rotation.trust.signer.root_pem


def test_a_token_buys_no_other_identity(tmp_path: Path) -> None:
    outbound, inbound, admin = free_ports(3)
    settings = {"tokens": tokens(tmp_path, TOKEN)}
    other = "spiffe://cluster.local/ns/shop/sa/admin"
    with origin() as app, control_plane(tmp_path, mesh(outbound, inbound, app.port), **settings) as plane:
        file = tmp_path / "bootstrap.json"
        file.write_text(json.dumps(config(secured(plane, tmp_path), tmp_path, admin, other)))
        with running(command("pymesh", file), title="pymesh", ports=[admin]) as process:
            words = f"certificate for {other}: "
            assert eventually(lambda: words in process.output(), PATIENCE), process.tail()
            line = next(line for line in process.output().splitlines() if line.startswith(words))
            assert f"the request asks for '{other}', the caller is '{IDENTITY}'" in line
            assert process.alive()
        with urllib.request.urlopen(f"http://{plane.admin_address}/metrics", timeout=10) as answer:
            metrics = answer.read().decode().splitlines()
        assert "citadel_server_success_cert_issuance_count 0.0" in metrics
        assert any(line.startswith("citadel_server_id_extraction_err_count") for line in metrics)


def operators(folder: Path) -> tuple[x509.Certificate, x509.Certificate]:
    """Istio's plug-in CA files: an intermediate below a root; both certificates."""
    now = datetime.now(UTC)
    root = self_signed("operator.example", now)
    key = ec.generate_private_key(ec.SECP256R1())
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    between = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "operator's intermediate")]))
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=2))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(root.key, hashes.SHA256())  # type: ignore[arg-type]
    )
    folder.mkdir()
    pem = between.public_bytes(serialization.Encoding.PEM)
    (folder / "ca-cert.pem").write_bytes(pem)
    (folder / "cert-chain.pem").write_bytes(pem)
    (folder / "root-cert.pem").write_text(root.root_pem)
    private_files.write(folder / "ca-key.pem", private_pem(key))
    return root.certificate, between
