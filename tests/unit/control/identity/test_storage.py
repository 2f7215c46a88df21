"""The authority's files: modes, atomic creation, supplied authorities that do not fit."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pymesh.control.identity import private_files, storage
from pymesh.control.identity.authority import AuthorityError, LifetimePolicy, private_pem, self_signed
from pymesh.control.identity.spiffe import Identity

NOW = datetime(2026, 1, 2, tzinfo=UTC)
POLICY = LifetimePolicy()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_root_is_private_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    first = storage.open_or_create(folder, "cluster.local", NOW, POLICY)
    again = storage.open_or_create(folder, "cluster.local", NOW, POLICY)
    assert first.bundle == again.bundle
    assert mode(folder) == 0o700
    assert mode(folder / "authority.json") == 0o600
    assert (folder / "root-cert.pem").read_text() == first.signer.root_pem
    assert sorted(p.name for p in folder.iterdir()) == ["authority.json", "root-cert.pem"]


def test_every_phase_is_found_again(tmp_path: Path) -> None:
    trust = storage.open_or_create(tmp_path, "cluster.local", NOW, POLICY)
    supplied(tmp_path)
    prepared = trust.prepared(storage.open_supplied(tmp_path, NOW, POLICY))
    for phase in (prepared, prepared.activated(), prepared.activated().revoked()):
        storage.keep(tmp_path, phase)
        found = storage.open_or_create(tmp_path, "cluster.local", NOW, POLICY)
        assert (found.phase, found.bundle, found.version) == (phase.phase, phase.bundle, phase.version)
        assert [one.id for one in found.authorities] == [one.id for one in phase.authorities]
        assert all(one.is_like(other) for one, other in zip(found.authorities, phase.authorities, strict=True))
        assert (tmp_path / "root-cert.pem").read_text() == phase.bundle
        assert mode(tmp_path / "authority.json") == 0o600


def test_a_write_that_fails_leaves_the_phase_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever step of replacing the file a crash or a full disk hits."""
    trust = storage.open_or_create(tmp_path, "cluster.local", NOW, POLICY)
    before = (tmp_path / "authority.json").read_bytes()
    for step in ("fsync", "fchmod"):
        with monkeypatch.context() as patched:
            patched.setattr(f"os.{step}", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space left"):
                storage.keep(tmp_path, trust.prepared(self_signed("cluster.local", NOW)))
        assert (tmp_path / "authority.json").read_bytes() == before
    assert storage.open_or_create(tmp_path, "cluster.local", NOW, POLICY).phase == "steady"
    assert not list(tmp_path.glob(".*")), "nothing half written stays"


def test_the_root_of_earlier_versions_is_taken_over(tmp_path: Path) -> None:
    made = self_signed("cluster.local", NOW)
    private_files.write(tmp_path / "root.pem", private_pem(made.key) + made.root_pem.encode())
    found = storage.open_or_create(tmp_path, "cluster.local", NOW, POLICY)
    assert found.bundle == made.root_pem
    assert not (tmp_path / "root.pem").exists(), "one copy of a key is enough"
    assert storage.open_or_create(tmp_path, "cluster.local", NOW, POLICY).bundle == made.root_pem


def test_state_that_cannot_be_read_is_not_overwritten(tmp_path: Path) -> None:
    storage.open_or_create(tmp_path, "cluster.local", NOW, POLICY)
    private_files.write(tmp_path / "authority.json", b"{")
    with pytest.raises(AuthorityError, match=r"authority\.json.*restore the file from a backup"):
        storage.open_or_create(tmp_path, "cluster.local", NOW, POLICY)
    assert (tmp_path / "authority.json").read_bytes() == b"{"


def test_creation_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert private_files.create(path, b"first")
    assert not private_files.create(path, b"second")
    assert private_files.read(path) == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_root_that_others_can_read_is_refused(tmp_path: Path) -> None:
    storage.open_or_create(tmp_path, "cluster.local", NOW, POLICY)
    (tmp_path / "authority.json").chmod(0o640)
    with pytest.raises(AuthorityError, match="chmod 600"):
        storage.open_or_create(tmp_path, "cluster.local", NOW, POLICY)


def test_an_expired_root_is_refused(tmp_path: Path) -> None:
    made = storage.open_or_create(tmp_path, "cluster.local", NOW, POLICY)
    with pytest.raises(AuthorityError, match="not valid now"):
        storage.open_or_create(tmp_path, "cluster.local", made.signer.root.not_valid_after_utc, POLICY)


def supplied(folder: Path, *, ca: bool = True) -> None:
    """An intermediate under a root, with Istio's file names."""
    root = self_signed("corp.example", NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    intermediate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mesh intermediate")]))
        .issuer_name(root.root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(root.key, hashes.SHA256())
    )
    pem = intermediate.public_bytes(serialization.Encoding.PEM)
    (folder / "ca-cert.pem").write_bytes(pem)
    private_files.write(folder / "ca-key.pem", private_pem(key))
    (folder / "root-cert.pem").write_text(root.root_pem)
    (folder / "cert-chain.pem").write_bytes(pem + root.root_pem.encode())


def test_a_supplied_intermediate_signs_and_sends_its_chain(tmp_path: Path) -> None:
    supplied(tmp_path)
    authority = storage.open_supplied(tmp_path, NOW, POLICY)
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    issued = authority.sign(pem, Identity("cluster.local", "shop", "cart"), NOW)
    leaf, intermediate, root = (x509.load_pem_x509_certificate(c.encode()) for c in issued.chain)
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)


def test_supplied_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match=r"ca-cert\.pem: No such file"):
        storage.open_supplied(tmp_path, NOW, POLICY)
    supplied(tmp_path, ca=False)
    with pytest.raises(AuthorityError, match="CA:TRUE is missing"):
        storage.open_supplied(tmp_path, NOW, POLICY)
    supplied(tmp_path)
    private_files.write(tmp_path / "ca-key.pem", private_pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(AuthorityError, match="key does not belong"):
        storage.open_supplied(tmp_path, NOW, POLICY)
    supplied(tmp_path)
    (tmp_path / "root-cert.pem").write_text(self_signed("other", NOW).root_pem)
    with pytest.raises(AuthorityError, match="is not issued by"):
        storage.open_supplied(tmp_path, NOW, POLICY)
