"""What the authority signs, for how long, and what it refuses."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from pymesh.control.identity.authority import (
    AuthorityError,
    CertificateAuthority,
    LifetimePolicy,
    self_signed,
)
from pymesh.control.identity.csr import BadRequestError, WrongIdentityError
from pymesh.control.identity.spiffe import Identity

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CART = Identity("cluster.local", "shop", "cart")


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return self_signed("cluster.local", NOW)


def request(*names: x509.GeneralName, key: object = None) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    key = key or ec.generate_private_key(ec.SECP256R1())
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM).decode()


def uri(identity: object) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(str(identity))


def test_a_leaf_is_exactly_what_a_workload_needs(authority: CertificateAuthority) -> None:
    issued = authority.sign(request(uri(CART)), CART, NOW)
    leaf, root = (x509.load_pem_x509_certificate(pem.encode()) for pem in issued.chain)
    leaf.verify_directly_issued_by(root)
    assert leaf.not_valid_before_utc == NOW - timedelta(minutes=2)
    assert leaf.not_valid_after_utc == issued.not_after == NOW + timedelta(hours=24)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert list(names.value) == [uri("spiffe://cluster.local/ns/shop/sa/cart")]
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not any((usage.key_cert_sign, usage.crl_sign, usage.key_encipherment))
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_identity_comes_from_the_caller_and_not_from_the_request(authority: CertificateAuthority) -> None:
    issued = authority.sign(request(), CART, NOW)
    leaf = x509.load_pem_x509_certificate(issued.chain[0].encode())
    assert list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [uri(CART)]


@pytest.mark.parametrize(
    "name",
    [
        uri("spiffe://cluster.local/ns/shop/sa/admin"),
        uri(f"{CART}/"),
        uri("spiffe://other.domain/ns/shop/sa/cart"),
        x509.DNSName("cart.shop"),
    ],
)
def test_a_request_for_another_name_is_refused(authority: CertificateAuthority, name: x509.GeneralName) -> None:
    with pytest.raises(WrongIdentityError, match=r"the caller is 'spiffe://cluster\.local/ns/shop/sa/cart'"):
        authority.sign(request(uri(CART), name), CART, NOW)


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "nonsense",
        "\udcff\x00",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "A" * 100_000,
    ],
)
def test_unreadable_requests_are_refused(authority: CertificateAuthority, pem: str) -> None:
    with pytest.raises(BadRequestError):
        authority.sign(pem, CART, NOW)


def test_no_mutation_of_a_request_does_more_than_be_refused(authority: CertificateAuthority) -> None:
    der = x509.load_pem_x509_csr(request(uri(CART)).encode()).public_bytes(serialization.Encoding.DER)
    refused = 0
    for position in range(len(der)):
        mutated = bytearray(der)
        mutated[position] ^= 0x55
        body = serialization_pem(bytes(mutated))
        try:
            authority.sign(body, CART, NOW)
        except (BadRequestError, WrongIdentityError):
            refused += 1
    assert refused == len(der)


def serialization_pem(der: bytes) -> str:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


def test_weak_and_foreign_keys_are_refused(authority: CertificateAuthority) -> None:
    for key in (rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP224R1())):
        with pytest.raises(BadRequestError, match="not accepted"):
            authority.sign(request(key=key), CART, NOW)
    for accepted in (ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)):
        assert authority.sign(request(key=accepted), CART, NOW).chain


def test_serial_numbers_differ(authority: CertificateAuthority) -> None:
    assert len({authority.sign(request(), CART, NOW).serial for _ in range(20)}) == 20


def test_lifetime_policy() -> None:
    policy = LifetimePolicy(timedelta(hours=1), timedelta(hours=2), timedelta(minutes=1))
    assert policy.granted(None) == policy.granted(timedelta(seconds=-5)) == timedelta(hours=1)
    assert policy.granted(timedelta(seconds=1)) == timedelta(minutes=1)
    assert policy.granted(timedelta(days=999)) == timedelta(hours=2)
    with pytest.raises(ValueError, match="default <= maximum"):
        LifetimePolicy(timedelta(hours=3), timedelta(hours=2))


def test_a_leaf_never_outlives_the_root(authority: CertificateAuthority) -> None:
    end = authority.root.not_valid_after_utc
    assert authority.sign(request(), CART, end - timedelta(minutes=5)).not_after == end
    with pytest.raises(AuthorityError, match="expired"):
        authority.sign(request(), CART, end)


def test_server_certificates_name_hosts_and_addresses(authority: CertificateAuthority) -> None:
    issued = authority.issue_server(ec.generate_private_key(ec.SECP256R1()), ["localhost", "127.0.0.1"], NOW)
    leaf = x509.load_pem_x509_certificate(issued.chain[0].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


@pytest.mark.parametrize("parts", [("Cluster", "a", "b"), ("c", "a/b", "b"), ("c", "a", ""), ("c", "a", "../b")])
def test_identities_cannot_hold_odd_names(parts: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError, match="DNS"):
        Identity(*parts)
