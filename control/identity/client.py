"""The workload's side of the control plane: a fresh key, a request, a signed chain; and the roots, as they change."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod

from pymesh.control.identity.authority import private_pem
from pymesh.control.identity.names import ROOTS
from pymesh.control.identity.service import NODE_ID, PATH
from pymesh.control.xds import pb
from pymesh.control.xds.grpc import Bytes
from pymesh.control.xds.server import SERVICE

TIMEOUT_SECONDS = 10.0


class SigningError(Exception):
    """No certificate was issued: why."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A workload's key and what proves it. The representation shows no key."""

    key_pem: bytes
    #: Leaf first, without the root.
    chain_pem: bytes
    #: The roots of the mesh, as they were when it was signed.
    roots_pem: bytes
    not_after: datetime

    def __repr__(self) -> str:
        return f"Credentials(until {self.not_after.isoformat()})"

    def is_of_first(self, roots_pem: bytes) -> bool:
        """Whether the chain leads to the first of these roots: the one that signs now."""
        top = x509.load_pem_x509_certificates(self.chain_pem)[-1]
        try:
            top.verify_directly_issued_by(x509.load_pem_x509_certificate(roots_pem))
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


@dataclass(frozen=True, slots=True)
class CertificateClient:
    """Asks a control plane for certificates."""

    host: str
    port: int
    #: Trust for the control plane; None for cleartext (tests on loopback).
    tls: ssl.SSLContext | None

    async def obtain(self, token: str, lifetime_seconds: int = 0, node: str = "") -> Credentials:
        """New credentials for the workload that ``token`` proves, and its proxy ``node``. The key stays here.

        Raises :class:`SigningError`.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = request.public_bytes(serialization.Encoding.PEM).decode("ascii")
        message = pb.IstioCertificateRequest(csr=pem, validity_duration=lifetime_seconds)
        if node:
            message.metadata.update({NODE_ID: node})
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

    async def roots(self, token: str, node: str) -> AsyncGenerator[bytes, None]:
        """The roots of the mesh, now and after every change, for as long as the stream lives.

        Each is acknowledged when the next is asked for: the one who takes it has it in use by then. Raises
        :class:`SigningError`.
        """
        channel = Channel(self.host, self.port, ssl=self.tls, codec=Bytes())
        path = SERVICE + "DeltaAggregatedResources"
        method: StreamStreamMethod[bytes, bytes] = StreamStreamMethod(channel, path, bytes, bytes)
        try:
            async with method.open(metadata={"authorization": f"Bearer {token}"}) as stream:
                request = pb.DeltaDiscoveryRequest(type_url=pb.SECRET, resource_names_subscribe=[ROOTS])
                request.node.id = node
                while True:
                    await stream.send_message(pb.encode(request))
                    answer = await stream.recv_message()
                    if answer is None:
                        raise SigningError(f"{self.host}:{self.port}: the control plane has ended the stream")
                    response = pb.DeltaDiscoveryResponse.FromString(answer)
                    for resource in response.resources:
                        yield bytes(pb.unpack(resource.resource).validation_context.trusted_ca.inline_bytes)
                    request = pb.DeltaDiscoveryRequest(type_url=pb.SECRET, response_nonce=response.nonce)
        except (SigningError, GeneratorExit, asyncio.CancelledError):
            raise
        except Exception as error:  # grpclib raises its own, OSError, ssl errors and timeouts
            raise SigningError(f"{self.host}:{self.port}: {type(error).__name__}: {error}") from error
        finally:
            with contextlib.suppress(Exception):
                channel.close()


def tls_context(roots_pem: bytes) -> ssl.SSLContext:
    """Trust in the control plane whose certificate leads to one of these roots."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=roots_pem.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    return context


def _credentials(key: bytes, response: pb.Message) -> Credentials:
    chain = [str(pem).encode("ascii") for pem in getattr(response, "cert_chain", ())]
    if len(chain) < 2:
        raise SigningError(f"the control plane sent a chain of {len(chain)} certificates; leaf and root are needed")
    leaf = x509.load_pem_x509_certificate(chain[0])
    return Credentials(key, b"".join(chain[:-1]), chain[-1], leaf.not_valid_after_utc)
