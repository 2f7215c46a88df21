"""What the Secret of a gateway or of a DestinationRule says: a certificate with its key, and an authority.

As with Istio the authority may stand in a Secret of its own, whose name ends in ``-cacert``, and the older names of the
entries are good too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pymesh.control.resources.decode import Located
from pymesh.control.resources.destination import ClientTls
from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.kubernetes import Secret

Secrets = Mapping[tuple[str, str], Secret]

_AUTHORITY_SUFFIX = "-cacert"


@dataclass(frozen=True, slots=True)
class Credential:
    """PEM, each part only if it is there."""

    certificate: bytes = b""
    key: bytes = b""
    authority: bytes = b""


def find(secrets: Secrets, namespace: str, name: str) -> Credential | None:
    """What the Secrets of that name say; None if there are none."""
    own = secrets.get((namespace, name))
    beside = secrets.get((namespace, name + _AUTHORITY_SUFFIX))
    if own is None and beside is None:
        return None
    authority = next((found for one in (own, beside) if one and (found := _entry(one, "ca.crt", "cacert"))), b"")
    if own is None:
        return Credential(authority=authority)
    return Credential(_entry(own, "tls.crt", "cert"), _entry(own, "tls.key", "key"), authority)


def check(
    secrets: Secrets,
    namespace: str,
    name: str,
    owner: Located,
    field: str,
    report: Report,
    *,
    certificate: bool = True,
    authority: bool = False,
) -> None:
    """Report what is wrong with a credential of which these parts are needed."""
    found = find(secrets, namespace, name)
    if found is None:
        hint = report.closest(
            name,
            lambda: (one for where, one in secrets if where == namespace),
            otherwise=f"put a Secret of type kubernetes.io/tls into namespace {namespace!r}",
        )
        report.error(owner.place(field), f"there is no Secret {namespace}/{name}", hint)
        return
    title = f"Secret {namespace}/{name}"
    if certificate:
        for problem, hint in _certificate_problems(found):
            report.error(owner.place(field), f"{title} {problem}", hint)
    if authority and not found.authority:
        hint = "it holds the certificates of those who sign for the other side"
        report.error(owner.place(field), f"{title} has no 'ca.crt'", hint)
    elif found.authority and not _certificates(found.authority):
        report.error(owner.place(field), f"{title} has a 'ca.crt' that is not a certificate in PEM")


def check_client(secrets: Secrets, namespace: str, tls: ClientTls, report: Report) -> None:
    """The same, of what a policy of a DestinationRule needs of the Secret that it names."""
    check(
        secrets,
        namespace,
        tls.credential_name,
        tls,
        "credentialName",
        report,
        certificate=tls.mode == "MUTUAL",
        authority=not tls.insecure_skip_verify,
    )


def _entry(secret: Secret, *names: str) -> bytes:
    return next((content for name in names if (content := secret.content(name))), b"")


def _certificate_problems(found: Credential) -> Iterator[tuple[str, str]]:
    for name, content in (("tls.crt", found.certificate), ("tls.key", found.key)):
        if not content:
            yield f"has no {name!r}", "a Secret of type kubernetes.io/tls has tls.crt and tls.key"
    if not found.certificate or not found.key:
        return
    chain = _certificates(found.certificate)
    if not chain:
        yield "has a 'tls.crt' that is not a certificate in PEM", "it begins with -----BEGIN CERTIFICATE-----"
    try:
        key = serialization.load_pem_private_key(found.key, password=None)
    except (ValueError, TypeError):  # TypeError: it is encrypted
        yield (
            "has a 'tls.key' that is not an unencrypted private key in PEM",
            "it begins with -----BEGIN PRIVATE KEY-----",
        )
        return
    if chain and chain[0].public_key() != key.public_key():
        yield "has a 'tls.key' that is not the key of 'tls.crt'", "the certificate that the key belongs to comes first"


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []
