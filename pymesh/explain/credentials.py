"""Identities for simulated proxies: from an authority that lives as long as the question."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pymesh.control.identity.authority import private_pem, self_signed
from pymesh.control.identity.names import CERTIFICATE, ROOTS
from pymesh.control.identity.spiffe import Identity
from pymesh.control.xds import pb

_SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"


class Credentials:
    """Signs what is asked for; nothing of it is ever written anywhere."""

    def __init__(self, trust_domain: str, now: datetime) -> None:
        self._now = now
        self._authority = self_signed(trust_domain, now)

    def server(self) -> tuple[str, bytes]:
        """A certificate for servers that nobody looks at twice, and its key; PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._authority.issue_server(key, ["application"], self._now).chain[0], private_pem(key)

    def secrets(self, identity: str | None) -> dict[str, Any]:
        """The secrets of a member: its certificate, and the roots that it trusts."""
        message = pb.message(_SECRET)
        roots = {"trusted_ca": {"inline_bytes": self._authority.root_pem.encode()}}
        found = {ROOTS: message(name=ROOTS, validation_context=roots)}
        if identity is not None:
            _, _, trust_domain, _, namespace, _, account = identity.split("/")
            key = ec.generate_private_key(ec.SECP256R1())
            request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
            pem = request.public_bytes(serialization.Encoding.PEM).decode()
            issued = self._authority.sign(pem, Identity(trust_domain, namespace, account), self._now)
            certificate = {
                "certificate_chain": {"inline_bytes": issued.chain[0].encode()},
                "private_key": {"inline_bytes": private_pem(key)},
            }
            found[CERTIFICATE] = message(name=CERTIFICATE, tls_certificate=certificate)
        return found
