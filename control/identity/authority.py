"""The certificate authority: signs short-lived leaves for authenticated identities.

Time is an argument everywhere. Keys of workloads never come here; the authority's own key never leaves
this object except into its file of mode 0600.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pymesh.control.config import SHORTEST_CERTIFICATE_LIFETIME
from pymesh.control.identity import csr
from pymesh.control.identity.spiffe import Identity

#: Clocks of a mesh differ: leaves are valid from a little before they were made.
BACKDATE = timedelta(minutes=2)
ROOT_LIFETIME = timedelta(days=3650)

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class AuthorityError(Exception):
    """The authority cannot sign (now): what and why."""


@dataclass(frozen=True, slots=True)
class LifetimePolicy:
    """How long leaves are valid."""

    default: timedelta = timedelta(hours=24)
    maximum: timedelta = timedelta(days=90)
    minimum: timedelta = SHORTEST_CERTIFICATE_LIFETIME

    def __post_init__(self) -> None:
        if not timedelta(0) < self.minimum <= self.default <= self.maximum:
            raise ValueError("certificate lifetimes must satisfy 0 < minimum <= default <= maximum")

    def granted(self, requested: timedelta | None) -> timedelta:
        """What is granted for a requested lifetime (None or not positive: the default)."""
        if requested is None or requested <= timedelta(0):
            return self.default
        return min(max(requested, self.minimum), self.maximum)


@dataclass(frozen=True, slots=True)
class Issued:
    """A signed leaf: PEM certificates from the leaf to the root."""

    chain: tuple[str, ...]
    not_after: datetime
    serial: int


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A signing certificate with its key and its way up to the root."""

    key: SigningKey
    certificate: x509.Certificate
    #: Certificates between the signing one and the root, lower first; without both.
    intermediates: tuple[x509.Certificate, ...]
    root: x509.Certificate
    policy: LifetimePolicy = LifetimePolicy()
    #: Others that an operator wants to be trusted beside it, as those of another mesh.
    more_roots: tuple[x509.Certificate, ...] = ()

    @property
    def id(self) -> str:
        """How people and files name it: the beginning of its signing certificate's SHA-256."""
        return fingerprint(self.certificate)

    @property
    def root_pem(self) -> str:
        return pem(self.root)

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """What has to be trusted for its sake, its own root first."""
        return tuple(dict.fromkeys((self.root, *self.more_roots)))

    def is_like(self, other: CertificateAuthority) -> bool:
        """Whether both sign with the same key and want the same roots trusted."""
        return (self.certificate, self.intermediates, self.roots) == (
            other.certificate,
            other.intermediates,
            other.roots,
        )

    def sign(self, request_pem: str, identity: Identity, now: datetime, requested: timedelta | None = None) -> Issued:
        """Certify the key of a request for ``identity``, and for nothing that the request says.

        Raises :class:`csr.BadRequestError`, :class:`csr.WrongIdentityError` or :class:`AuthorityError`.
        """
        key = csr.public_key(request_pem, identity)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
        # The subject is empty, hence the alternative name is critical (RFC 5280, 4.2.1.6).
        return self._leaf(key, x509.Name([]), names, self.policy.granted(requested), now, critical=True)

    def issue_server(self, key: ec.EllipticCurvePrivateKey, hosts: Sequence[str], now: datetime) -> Issued:
        """A certificate for the control plane's own listening address: DNS names and IP addresses."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pymesh control plane")])
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        return self._leaf(key.public_key(), subject, names, self.policy.default, now, critical=False)

    def _leaf(
        self,
        key: csr.PublicKey,
        subject: x509.Name,
        names: x509.SubjectAlternativeName,
        lifetime: timedelta,
        now: datetime,
        *,
        critical: bool,
    ) -> Issued:
        # A leaf that outlives its issuer would only fail later and further away.
        not_after = min(now + lifetime, *(c.not_valid_after_utc for c in (self.certificate, self.root)))
        if not_after <= now:
            raise AuthorityError(f"the authority's certificate expired at {not_after.isoformat()}")
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(not_after)
            .add_extension(names, critical=critical)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority_key, critical=False)
            .sign(self.key, _digest(self.key))
        )
        chain = [certificate]
        if self.certificate != self.root:
            chain += [self.certificate, *self.intermediates]
        return Issued(
            tuple(pem(c) for c in (*chain, self.root)),
            certificate.not_valid_after_utc,
            certificate.serial_number,
        )


def self_signed(trust_domain: str, now: datetime, policy: LifetimePolicy | None = None) -> CertificateAuthority:
    """A new root authority for a trust domain."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, "pymesh root"),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return CertificateAuthority(key, certificate, (), certificate, policy or LifetimePolicy())


def fingerprint(certificate: x509.Certificate) -> str:
    """Enough of a certificate's SHA-256 to tell it from all others of a mesh."""
    return certificate.fingerprint(hashes.SHA256()).hex()[:16]


def private_pem(key: SigningKey) -> bytes:
    """A key as unencrypted PKCS#8 PEM, for a private file or a local socket."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(certificate: x509.Certificate) -> str:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _digest(key: SigningKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
