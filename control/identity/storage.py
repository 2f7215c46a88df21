"""Where authorities are kept: one private file in the state folder; and where they come from: made here, or supplied.

``authority.json`` holds all of :class:`~pymesh.control.identity.trust.Trust`, keys and certificates together, so that
no crash can leave one phase's key with another's roots; it is replaced as a whole, with mode 0600. The trusted roots
alone stand beside it, ``root-cert.pem``, for everybody to read: what a proxy that starts needs to trust the control
plane.

An operator's authority uses the file names of Istio's plug-in CA: ``ca-cert.pem``, ``ca-key.pem``, ``root-cert.pem``
and, between them, ``cert-chain.pem``. It is copied into the state: while it is being replaced the old one still signs,
also after a restart.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
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
    pem,
    private_pem,
    self_signed,
)
from pymesh.control.identity.trust import Phase, Trust

STATE_FILE = "authority.json"
ROOT_CERTIFICATE_FILE = "root-cert.pem"
#: Where versions before rotation kept their one root: key and certificate.
_EARLIER_FILE = "root.pem"
#: An operator's files. The last need not be there.
SUPPLIED_FILES = ("ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem")


class _Authority(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    certificate: str
    intermediates: list[str]
    #: Its own first.
    roots: list[str]


class _State(msgspec.Struct, forbid_unknown_fields=True):
    phase: Phase
    signer: _Authority
    other: _Authority | None = None


def open_or_create(
    folder: Path, trust_domain: str, now: datetime, policy: LifetimePolicy, supplied: CertificateAuthority | None = None
) -> Trust:
    """What is in use; on first use the supplied authority or else a root of our own, made now.

    Raises :class:`AuthorityError` when it cannot be used.
    """
    path = folder / STATE_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            first = supplied or _earlier(folder, now, policy) or self_signed(trust_domain, now, policy)
            private_files.create(path, _encoded(Trust(first)))
            (folder / _EARLIER_FILE).unlink(missing_ok=True)
        # Read back even when just created: another process may have been first.
        trust = _decoded(private_files.read(path), str(path), policy)
        _check_usable(trust.signer, str(path), now)
        _publish(folder, trust)
    except OSError as error:
        raise AuthorityError(f"{error.filename}: {error.strerror}") from error
    except private_files.InsecureFileError as error:
        raise AuthorityError(str(error)) from error
    return trust


def keep(folder: Path, trust: Trust) -> None:
    """Make this the trust that the next start finds. Raises ``OSError``."""
    private_files.write(folder / STATE_FILE, _encoded(trust))
    _publish(folder, trust)


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


def _publish(folder: Path, trust: Trust) -> None:
    private_files.write(folder / ROOT_CERTIFICATE_FILE, trust.bundle.encode(), mode=0o644)


def _earlier(folder: Path, now: datetime, policy: LifetimePolicy) -> CertificateAuthority | None:
    path = folder / _EARLIER_FILE
    if not path.exists():
        return None
    content = private_files.read(path)
    authority = _authority(content, content, b"", content, str(path), policy)
    _check_usable(authority, str(path), now)
    return authority


def _encoded(trust: Trust) -> bytes:
    other = _written(trust.other) if trust.other is not None else None
    return msgspec.json.format(msgspec.json.encode(_State(trust.phase, _written(trust.signer), other)), indent=1)


def _written(one: CertificateAuthority) -> _Authority:
    return _Authority(
        private_pem(one.key).decode("ascii"),
        pem(one.certificate),
        [pem(certificate) for certificate in one.intermediates],
        [pem(root) for root in one.roots],
    )


def _decoded(content: bytes, where: str, policy: LifetimePolicy) -> Trust:
    try:
        state = msgspec.json.decode(content, type=_State)
        read = [
            _authority(
                one.key.encode(), one.certificate.encode(), "".join(one.intermediates).encode(),
                "".join(one.roots).encode(), where, policy,
            )
            for one in (state.signer, state.other)
            if one is not None
        ]  # fmt: skip
        return Trust(read[0], state.phase, read[1] if len(read) > 1 else None)
    except (msgspec.DecodeError, ValueError) as error:
        hint = "restore the file from a backup; without it every proxy has to be started again"
        raise AuthorityError(f"{where}: {error}; hint: {hint}") from error


def _authority(
    key: bytes, certificate: bytes, between: bytes, root: bytes, where: str, policy: LifetimePolicy
) -> CertificateAuthority:
    try:
        loaded = serialization.load_pem_private_key(key, password=None)
        signing = x509.load_pem_x509_certificate(certificate)
        anchors = x509.load_pem_x509_certificates(root)
        chain = x509.load_pem_x509_certificates(between) if between.strip() else []
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityError(f"{where}: {error}") from error
    # Istio's cert-chain.pem repeats the signing certificate and often the root.
    intermediates = tuple(c for c in chain if c != signing and c not in anchors)
    top = intermediates[-1] if intermediates else signing
    anchor = next((one for one in anchors if one == top or _issued(top, one)), anchors[0])
    more = tuple(one for one in anchors if one != anchor)
    return CertificateAuthority(_signing_key(loaded, where), signing, intermediates, anchor, policy, more)


def _issued(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


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
        if not _issued(lower, upper):
            names = f"{lower.subject.rfc4514_string()!r} is not issued by {upper.subject.rfc4514_string()!r}"
            raise AuthorityError(f"{where}: {names}; hint: list cert-chain.pem from lower to upper")


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
