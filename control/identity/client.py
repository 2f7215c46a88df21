"""The workload's side of ``IstioCertificateService``: a fresh key, a request, a signed chain."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpclib.client import Channel, UnaryUnaryMethod

from pymesh.control.identity.authority import private_pem
from pymesh.control.identity.service import PATH
from pymesh.control.xds import pb
from pymesh.control.xds.grpc import Bytes

TIMEOUT_SECONDS = 10.0


class SigningError(Exception):
    """No certificate was issued: why."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A workload's key and what proves it. The representation shows no key."""

    key_pem: bytes
    #: Leaf first, without the root.
    chain_pem: bytes
    root_pem: bytes
    not_after: datetime

    def __repr__(self) -> str:
        return f"Credentials(until {self.not_after.isoformat()})"


@dataclass(frozen=True, slots=True)
class CertificateClient:
    """Asks a control plane for certificates."""

    host: str
    port: int
    #: Trust for the control plane; None for cleartext (tests on loopback).
    tls: ssl.SSLContext | None

    async def obtain(self, token: str, lifetime_seconds: int = 0) -> Credentials:
        """New credentials for the workload that ``token`` proves. The key never leaves this process.

        Raises :class:`SigningError`.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = request.public_bytes(serialization.Encoding.PEM).decode("ascii")
        message = pb.IstioCertificateRequest(csr=pem, validity_duration=lifetime_seconds)
        channel = Channel(self.host, self.port, ssl=self.tls, codec=Bytes())
        method: UnaryUnaryMethod[bytes, bytes] = UnaryUnaryMethod(channel, PATH, bytes, bytes)
        try:
            answer = await method(
                pb.encode(message), timeout=TIMEOUT_SECONDS, metadata={"authorization": f"Bearer {token}"}
            )
            return _credentials(private_pem(key), pb.IstioCertificateResponse.FromString(answer or b""))
        except SigningError:
            raise
        except Exception as error:  # grpclib raises its own, OSError, ssl errors and timeouts
            raise SigningError(f"{self.host}:{self.port}: {type(error).__name__}: {error}") from error
        finally:
            channel.close()


def tls_context(root: Path) -> ssl.SSLContext:
    """Trust in the control plane whose root certificate is the file ``root``."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=root)
    context.set_alpn_protocols(["h2"])
    return context


def _credentials(key: bytes, response: pb.Message) -> Credentials:
    chain = [str(pem).encode("ascii") for pem in getattr(response, "cert_chain", ())]
    if len(chain) < 2:
        raise SigningError(f"the control plane sent a chain of {len(chain)} certificates; leaf and root are needed")
    leaf = x509.load_pem_x509_certificate(chain[0])
    return Credentials(key, b"".join(chain[:-1]), chain[-1], leaf.not_valid_after_utc)
