"""Where the authority comes from: our own root in the state folder, or one that the operator supplies.

Our own root is one file, key and certificate together, so that no crash can leave one without the other;
it is created atomically, with mode 0600. The certificate alone stands beside it for everybody to read. An
operator's authority uses the file names of Istio's plug-in CA: ``ca-cert.pem``, ``ca-key.pem``,
``root-cert.pem`` and, between them, ``cert-chain.pem``.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pymesh.control.identity import private_files
from pymesh.control.identity.authority import (
    AuthorityError,
    CertificateAuthority,
    LifetimePolicy,
    SigningKey,
    private_pem,
    self_signed,
)

ROOT_FILE = "root.pem"
ROOT_CERTIFICATE_FILE = "root-cert.pem"


def open_or_create(folder: Path, trust_domain: str, now: datetime, policy: LifetimePolicy) -> CertificateAuthority:
    """Our own root, made on first use. Raises :class:`AuthorityError` when it cannot be used."""
    path = folder / ROOT_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            made = self_signed(trust_domain, now, policy)
            private_files.create(path, private_pem(made.key) + made.root_pem.encode())
        # Read back even when just created: another process may have been first.
        content = private_files.read(path)
        authority = _authority(content, content, b"", content, str(path), policy)
        _check_usable(authority, str(path), now)
        private_files.write(folder / ROOT_CERTIFICATE_FILE, authority.root_pem.encode(), mode=0o644)
    except OSError as error:
        raise AuthorityError(f"{error.filename}: {error.strerror}") from error
    except private_files.InsecureFileError as error:
        raise AuthorityError(str(error)) from error
    return authority


def open_supplied(folder: Path, now: datetime, policy: LifetimePolicy) -> CertificateAuthority:
    """The operator's authority. Raises :class:`AuthorityError` when the files do not fit together."""
    try:
        certificate = (folder / "ca-cert.pem").read_bytes()
        key = private_files.read(folder / "ca-key.pem")
        root = (folder / "root-cert.pem").read_bytes()
        chain = folder / "cert-chain.pem"
        between = chain.read_bytes() if chain.exists() else b""
    except OSError as error:
        raise AuthorityError(f"{error.filename}: {error.strerror}") from error
    except private_files.InsecureFileError as error:
        raise AuthorityError(str(error)) from error
    authority = _authority(key, certificate, between, root, str(folder), policy)
    _check_usable(authority, str(folder), now)
    return authority


def _authority(
    key: bytes, certificate: bytes, between: bytes, root: bytes, where: str, policy: LifetimePolicy
) -> CertificateAuthority:
    try:
        loaded = serialization.load_pem_private_key(key, password=None)
        signing = x509.load_pem_x509_certificate(certificate)
        anchor = x509.load_pem_x509_certificate(root)
        chain = x509.load_pem_x509_certificates(between) if between.strip() else []
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityError(f"{where}: {error}") from error
    # Istio's cert-chain.pem repeats the signing certificate and often the root.
    intermediates = tuple(c for c in chain if c not in (signing, anchor))
    return CertificateAuthority(_signing_key(loaded, where), signing, intermediates, anchor, policy)


def _signing_key(key: object, where: str) -> SigningKey:
    if isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)):
        return key
    raise AuthorityError(f"{where}: {type(key).__name__} cannot sign certificates; use ECDSA, RSA or Ed25519")


def _check_usable(authority: CertificateAuthority, where: str, now: datetime) -> None:
    if authority.key.public_key() != authority.certificate.public_key():
        raise AuthorityError(f"{where}: the key does not belong to the signing certificate")
    path = [authority.certificate, *authority.intermediates]
    if authority.certificate != authority.root:
        path.append(authority.root)
    for certificate in path:
        _check_certificate(certificate, where, now)
    for lower, upper in zip(path, path[1:] or path, strict=False):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature) as error:
            names = f"{lower.subject.rfc4514_string()!r} is not issued by {upper.subject.rfc4514_string()!r}"
            raise AuthorityError(f"{where}: {names}; hint: list cert-chain.pem from lower to upper") from error


def _check_certificate(certificate: x509.Certificate, where: str, now: datetime) -> None:
    subject = certificate.subject.rfc4514_string()
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        until = certificate.not_valid_after_utc.isoformat()
        raise AuthorityError(f"{where}: {subject!r} is not valid now (until {until}); hint: supply a new authority")
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        constraints = None
    if constraints is None or not constraints.ca:
        raise AuthorityError(f"{where}: {subject!r} is not the certificate of an authority (CA:TRUE is missing)")
