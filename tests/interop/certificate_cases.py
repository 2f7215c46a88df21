"""The table of bad certificates: how each is made, and for what reason it is refused where.

Three places judge: a sidecar's inbound side (a client shows the certificate), a sidecar's outbound side (a server shows
it), both as X.509-SVIDs, and a gateway's MUTUAL listener, as an ordinary client certificate for `client.example`.
`None` stands where the certificate is no worse than the good one: a host's certificate needs no SPIFFE ID.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from tests.tools.bad_certificates import (
    HOST,
    IDENTITY,
    RSA_WITH,
    Made,
    Wish,
    authority,
    below,
    changed,
    issue,
    root,
)

_DAY = datetime.timedelta(days=1)
_NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
_ID_AT = b"\x55\x1d"  # 2.5.29
_SAN, _KEY_USAGE, _NOBODYS = b"\x11", b"\x0f", b"\x63"


class Pki:
    """The two roots that everybody trusts."""

    def __init__(self) -> None:
        self.root = root()
        self.rsa_root = root("pymesh test root of RSA", rsa.generate_private_key(65537, 2048))

    def leaf(self, **fields: object) -> Made:
        """The good certificate with other fields."""
        return issue(self.root, Wish(**fields))  # type: ignore[arg-type]

    def through(self, intermediate: Wish, **fields: object) -> Made:
        """The good certificate below an intermediate."""
        return below(issue(self.root, intermediate), Wish(**fields))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    """One bad certificate; a reason for each of the places that judge.

    What is made is shown with its own key, with another's if that stands behind it, or not at all if there is nothing.
    """

    name: str
    make: Callable[[Pki], Made | tuple[Made, Made] | None]
    inbound: str | None
    outbound: str | None
    gateway: str | None


def _everywhere(name: str, reason: str, make: Callable[[Pki], Made | tuple[Made, Made]]) -> Case:
    return Case(name, make, reason, reason, reason)


def _identity(name: str, reason: str, *uris: str) -> Case:
    """Only as an X.509-SVID is it bad."""
    return Case(name, lambda pki: pki.leaf(uris=uris), reason, reason, None)


def _extension(value: bytes, oid: str = "2.5.29.99") -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(ObjectIdentifier(oid), value)


def _twice(pki: Pki, which: bytes, value: bytes) -> Made:
    """With a second extension of the kind."""
    made = pki.leaf(extensions=[(_extension(value), False)])
    return changed(pki.root, made, _ID_AT + _NOBODYS, _ID_AT + which)


def _self_signed(_: Pki) -> Made:
    key = ec.generate_private_key(ec.SECP256R1())
    wish = Wish(key=key)
    return issue(replace(root(key=key), name=x509.Name([])), replace(wish, name="pymesh test root"))


def _broken_signature(pki: Pki) -> Made:
    made = pki.leaf()
    return replace(made, der=made.der[:-1] + bytes([made.der[-1] ^ 1]))


def _missing_intermediate(pki: Pki) -> Made:
    return replace(pki.through(authority("intermediate")), above=())


def _deep(pki: Pki, many: int) -> Made:
    above = issue(pki.root, authority("intermediate 1"))
    for number in range(2, many + 1):
        above = below(above, authority(f"intermediate {number}"))
    return below(above, Wish())


def _too_deep(pki: Pki) -> Made:
    narrow = issue(pki.root, authority("narrow", path_length=0))
    return below(below(narrow, authority("below")), Wish())


def _constrained(pki: Pki, *, uri: str = "", dns: str = "") -> Made:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri else [x509.DNSName(dns)]
    constraints = x509.NameConstraints(permitted_subtrees=names, excluded_subtrees=None)
    return pki.through(authority("constrained", extensions=[(constraints, True)]))


def _weakly_signed(pki: Pki, digest: hashes.SHA1 | hashes.MD5) -> Made:
    good = issue(pki.rsa_root, Wish())
    return changed(pki.rsa_root, good, RSA_WITH["sha256"], RSA_WITH[digest.name], digest)


def _nul(pki: Pki) -> Made:
    made = pki.leaf(dns=[f"{HOST}_.evil.example"])
    return changed(pki.root, made, f"{HOST}_".encode(), f"{HOST}\0".encode())


_AUTHORITIES = ("digital_signature", "key_cert_sign", "crl_sign")
_OTHER = "spiffe://cluster.local/ns/shop/sa/other"
_LONG = "spiffe://cluster.local/ns/shop/sa/" + "a" * 2048

CASES = [
    # Whether there is any, and whose it is.
    Case("no certificate", lambda _: None, "no_certificate", None, "no_certificate"),
    _everywhere("without its key", "key_not_proven", lambda pki: (pki.leaf(), pki.leaf())),
    # Times.
    _everywhere("expired", "certificate_expired", lambda pki: pki.leaf(after=_NOW - _DAY / 2)),
    _everywhere("not yet valid", "certificate_not_yet_valid", lambda pki: pki.leaf(before=_NOW + _DAY / 2)),
    _everywhere(
        "issuer expired", "certificate_expired", lambda pki: pki.through(authority("old", after=_NOW - _DAY / 2))
    ),
    # Who has signed.
    _everywhere("signed by itself", "unknown_issuer", _self_signed),
    _everywhere("unknown root", "unknown_issuer", lambda _: issue(root("nobody's root"), Wish())),
    _everywhere("root of the same name", "bad_signature", lambda _: issue(root(), Wish())),
    _everywhere("signature broken", "bad_signature", _broken_signature),
    _everywhere("signed with SHA-1", "unsupported_algorithm", lambda pki: _weakly_signed(pki, hashes.SHA1())),
    _everywhere("signed with MD5", "unsupported_algorithm", lambda pki: _weakly_signed(pki, hashes.MD5())),
    _everywhere("intermediate left out", "unknown_issuer", _missing_intermediate),
    _everywhere(
        "leaf as intermediate",
        "issuer_may_not_sign",
        lambda pki: below(pki.leaf(usage=_AUTHORITIES), Wish(name="below")),
    ),
    _everywhere(
        "intermediate that may not sign",
        "issuer_may_not_sign",
        lambda pki: pki.through(authority("weak", usage=["digital_signature"])),
    ),
    _everywhere("path longer than allowed", "path_too_long", _too_deep),
    _everywhere("chain of twelve", "path_too_long", lambda pki: _deep(pki, 12)),
    _everywhere(
        "outside its issuer's DNS names", "name_not_permitted", lambda pki: _constrained(pki, dns="other.example")
    ),
    _everywhere("outside its issuer's URIs", "name_not_permitted", lambda pki: _constrained(pki, uri="other.local")),
    # What it may be used for.
    _everywhere("an authority", "leaf_is_ca", lambda pki: pki.leaf(is_ca=True, usage=_AUTHORITIES)),
    Case(
        "for servers only",
        lambda pki: pki.leaf(purposes=[ExtendedKeyUsageOID.SERVER_AUTH]),
        "wrong_extended_key_usage",
        None,
        "wrong_extended_key_usage",
    ),
    Case(
        "for clients only",
        lambda pki: pki.leaf(purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]),
        None,
        "wrong_extended_key_usage",
        None,
    ),
    _everywhere(
        "for mail only",
        "wrong_extended_key_usage",
        lambda pki: pki.leaf(purposes=[ExtendedKeyUsageOID.EMAIL_PROTECTION]),
    ),
    _everywhere(
        "for encipherment only", "no_digital_signature_usage", lambda pki: pki.leaf(usage=["key_encipherment"])
    ),
    Case(
        "for nothing in particular",
        lambda pki: pki.leaf(usage=None),
        "no_digital_signature_usage",
        "no_digital_signature_usage",
        None,
    ),
    Case(
        "signs certificates",
        lambda pki: pki.leaf(usage=["digital_signature", "key_cert_sign"]),
        "leaf_signs_certificates",
        "leaf_signs_certificates",
        None,
    ),
    # How it is written.
    _everywhere(
        "unknown critical extension",
        "unknown_critical_extension",
        lambda pki: pki.leaf(extensions=[(_extension(b"\x05\0", "1.3.6.1.4.1.55555.1"), True)]),
    ),
    _everywhere(
        "names said twice", "malformed_certificate", lambda pki: _twice(pki, _SAN, b"\x30\x0d\x82\x0bother.local")
    ),
    _everywhere(
        "key usage said twice", "malformed_certificate", lambda pki: _twice(pki, _KEY_USAGE, b"\x03\x02\x07\x80")
    ),
    _everywhere(
        "octets behind it",
        "malformed_certificate",
        lambda pki: replace(made := pki.leaf(), der=made.der + b"\x05\0"),
    ),
    _everywhere("weak key", "weak_key", lambda pki: pki.leaf(key=rsa.generate_private_key(65537, 1024))),
    # Whom it names.
    Case("no names", lambda pki: pki.leaf(uris=(), dns=()), "no_spiffe_id", "no_spiffe_id", "san_mismatch"),
    _identity("host name only", "no_spiffe_id"),
    Case("other host", lambda pki: pki.leaf(dns=["other.example"]), None, None, "san_mismatch"),
    Case("host below", lambda pki: pki.leaf(dns=[f"x.{HOST}"]), None, None, "san_mismatch"),
    Case("embedded NUL in the host", _nul, "malformed_certificate", "malformed_certificate", "malformed_certificate"),
    _identity("other trust domain", "san_mismatch", IDENTITY.replace("cluster.local", "evil.local")),
    _identity("longer trust domain", "san_mismatch", IDENTITY.replace("cluster.local", "cluster.local.evil")),
    _identity("two SPIFFE IDs", "several_uri_sans", IDENTITY, _OTHER),
    _identity("SPIFFE ID beside a URL", "several_uri_sans", IDENTITY, "https://shop.example/"),
    _identity("trust domain alone", "invalid_spiffe_id", "spiffe://cluster.local"),
    _identity("slash behind", "invalid_spiffe_id", f"{IDENTITY}/"),
    _identity("empty segment", "invalid_spiffe_id", "spiffe://cluster.local/ns//shop/sa/client"),
    _identity("dot segment", "invalid_spiffe_id", "spiffe://cluster.local/ns/./shop/sa/client"),
    _identity("dots", "invalid_spiffe_id", "spiffe://cluster.local/ns/bank/../shop/sa/client"),
    _identity("query", "invalid_spiffe_id", f"{IDENTITY}?a=b"),
    _identity("fragment", "invalid_spiffe_id", f"{IDENTITY}#a"),
    _identity("port", "invalid_spiffe_id", "spiffe://cluster.local:443/ns/shop/sa/client"),
    _identity("user", "invalid_spiffe_id", "spiffe://user@cluster.local/ns/shop/sa/client"),
    _identity("escape", "invalid_spiffe_id", "spiffe://cluster.local/ns/shop/sa/%63lient"),
    _identity("scheme in upper case", "invalid_spiffe_id", "SPIFFE://cluster.local/ns/shop/sa/client"),
    _identity("trust domain in upper case", "invalid_spiffe_id", "spiffe://CLUSTER.local/ns/shop/sa/client"),
    _identity("other scheme", "invalid_spiffe_id", "https://cluster.local/ns/shop/sa/client"),
    _identity("too long", "invalid_spiffe_id", _LONG),
    Case(
        "other namespace", lambda pki: pki.leaf(uris=[IDENTITY.replace("/shop/", "/bank/")]), None, "san_mismatch", None
    ),
]


_ANYWHERE = ("inbound", "outbound", "gateway")
_SVID = ("inbound", "outbound")
_PREFIX = "a name that begins as it should is enough for its matcher"
#: What Envoy lets in, where, and why we do not.
ENVOY_ADMITS: dict[str, tuple[tuple[str, ...], str]] = {
    "signed with SHA-1": (_ANYWHERE, "collisions can be bought (RFC 9155)"),
    "weak key": (_ANYWHERE, "it looks at the keys of its own certificates only"),
    "chain of twelve": (_ANYWHERE, "nobody has a use for so many, and each costs"),
    "an authority": (_ANYWHERE, "X509-SVID, section 4.1: a leaf is no authority"),
    "for nothing in particular": (_SVID, "X509-SVID, section 4.3: key usage must be there"),
    "signs certificates": (_SVID, "X509-SVID, section 4.3: a leaf signs none"),
    "two SPIFFE IDs": (_SVID, "X509-SVID, section 2: exactly one URI"),
    "SPIFFE ID beside a URL": (_SVID, "X509-SVID, section 2: exactly one URI"),
    "embedded NUL in the host": (_SVID, "nobody issues one in good faith (CVE-2025-66220)"),
    "slash behind": (("inbound",), _PREFIX),
    "empty segment": (("inbound",), _PREFIX),
    "dot segment": (("inbound",), _PREFIX),
    "dots": (("inbound",), _PREFIX),
    "query": (("inbound",), _PREFIX),
    "fragment": (("inbound",), _PREFIX),
    "escape": (("inbound",), _PREFIX),
    "too long": (("inbound",), _PREFIX),
}
