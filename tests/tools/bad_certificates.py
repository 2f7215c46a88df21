"""Certificates that nobody may get in with, each broken in one way, and a good one beside them.

Every one is made from the good one by one change, so that what refuses it is that change. `cryptography` makes them;
where it knows better than to make one, the encoded certificate is changed and signed again.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.tools.certificates import KeyPair

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Digest = hashes.SHA256 | hashes.SHA1 | hashes.MD5

#: The identity and the host name of the good certificate.
IDENTITY = "spiffe://cluster.local/ns/shop/sa/client"
HOST = "client.example"
_DAY = datetime.timedelta(days=1)
_NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
_BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
#: An extension that nobody knows. Its encoding is as long as that of those it is turned into.
_NOBODYS = ObjectIdentifier("2.5.29.99")
#: Signature algorithms of RSA by the digest, encoded.
RSA_WITH = {
    name: bytes.fromhex("2a864886f70d0101") + bytes([last]) for name, last in (("md5", 4), ("sha1", 5), ("sha256", 11))
}


@dataclass(frozen=True)
class Made:
    """A certificate in DER, its key, and what stands above it, nearest first."""

    der: bytes
    key: Key
    name: x509.Name
    above: tuple[bytes, ...] = ()

    def chain(self) -> tuple[bytes, ...]:
        """What is shown: the leaf, then its issuers up to the root, which is left out."""
        return (self.der, *self.above)


@dataclass(frozen=True)
class Wish:
    """What a certificate is to say; as it stands, a good leaf."""

    name: str = "leaf"
    uris: Sequence[str] = (IDENTITY,)
    dns: Sequence[str] = (HOST,)
    before: datetime.datetime = _NOW - _DAY
    after: datetime.datetime = _NOW + _DAY
    is_ca: bool | None = False
    path_length: int | None = None
    usage: Sequence[str] | None = ("digital_signature",)
    purposes: Sequence[ObjectIdentifier] | None = _BOTH
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = ()
    key: Key | None = None


def authority(name: str, *, path_length: int | None = None, **fields: object) -> Wish:
    """A certificate that signs others."""
    usage = ("key_cert_sign", "crl_sign")
    wish = Wish(name, (), (), is_ca=True, path_length=path_length, usage=usage, purposes=None)
    return Wish(**{**wish.__dict__, **fields})  # type: ignore[arg-type]


def root(name: str = "pymesh test root", key: Key | None = None) -> Made:
    """A root of its own."""
    made = key or ec.generate_private_key(ec.SECP256R1())
    return Made(_signed(authority(name, key=made), _named(name), made, made), made, _named(name))


def issue(by: Made, wish: Wish, *, is_below_root: bool = True) -> Made:
    """A certificate by the wish, signed by `by`; a root is not shown."""
    key = wish.key or ec.generate_private_key(ec.SECP256R1())
    der = _signed(wish, by.name, key, by.key)
    return Made(der, key, _named(wish.name), () if is_below_root else by.chain())


def below(by: Made, wish: Wish) -> Made:
    """The same, `by` being an intermediate that is shown."""
    return issue(by, wish, is_below_root=False)


def changed(by: Made, made: Made, old: bytes, new: bytes, digest: Digest | None = None) -> Made:
    """The certificate with other octets where it says `old`, signed anew; they must be as many.

    With a digest, it says and is signed by that one, which takes an issuer of RSA.
    """
    body = x509.load_der_x509_certificate(made.der).tbs_certificate_bytes
    assert body.count(old) == 1 and len(old) == len(new), body.count(old)
    body = body.replace(old, new)
    if isinstance(by.key, rsa.RSAPrivateKey):
        assert digest is not None
        algorithm = _tagged(6, RSA_WITH[digest.name]) + b"\x05\0"
        signature = by.key.sign(body, padding.PKCS1v15(), digest)
    else:
        algorithm = bytes.fromhex("06082a8648ce3d040302")  # ecdsa-with-SHA256
        signature = by.key.sign(body, ec.ECDSA(hashes.SHA256()))
    der = _sequence(body + _sequence(algorithm) + _tagged(3, b"\0" + signature))
    return Made(der, made.key, made.name, made.above)


def write(folder: Path, title: str, made: Made) -> KeyPair:
    """The chain and the key as files."""
    pair = KeyPair(folder / f"{title}.pem", folder / f"{title}.key")
    pair.chain.write_text("".join(pem(der) for der in made.chain()))
    pair.key.touch(mode=0o600)
    pair.key.write_bytes(
        made.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return pair


def without_its_key(pair: KeyPair, made: Made) -> KeyPair:
    """The same chain with a key of somebody else's, in a file that says that it is the right one.

    SEC 1 lets the public key stand beside the private one, and OpenSSL believes it.
    """
    stranger = ec.generate_private_key(ec.SECP256R1())
    scalar = stranger.private_numbers().private_value.to_bytes(32, "big")
    assert isinstance(made.key, ec.EllipticCurvePrivateKey)
    point = made.key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    curve = bytes.fromhex("06082a8648ce3d030107")  # prime256v1
    der = _sequence(
        b"\x02\x01\x01" + _tagged(4, scalar) + _tagged(0xA0, curve) + _tagged(0xA1, _tagged(3, b"\0" + point))
    )
    pair.key.write_text(pem(der, "EC PRIVATE KEY"))
    return pair


def pem(der: bytes, what: str = "CERTIFICATE") -> str:
    """DER as PEM."""
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {what}-----", *lines, f"-----END {what}-----", ""])


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _signed(wish: Wish, issuer: x509.Name, key: Key, by: Key) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(wish.name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(wish.before)
        .not_valid_after(wish.after)
    )
    if wish.is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(wish.is_ca, wish.path_length), critical=True)
    if wish.usage is not None:
        builder = builder.add_extension(_usage(wish.usage), critical=True)
    if wish.purposes is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(wish.purposes), critical=False)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in wish.uris]
    names += [x509.DNSName(name) for name in wish.dns]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension, critical in wish.extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _usage(usages: Sequence[str]) -> x509.KeyUsage:
    known = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
    names = [*known.split(), "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: name in usages for name in names})


def _sequence(content: bytes) -> bytes:
    return _tagged(0x30, content)


def _tagged(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content
