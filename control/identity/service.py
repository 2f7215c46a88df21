"""Istio's certificate service: ``istio.v1.auth.IstioCertificateService/CreateCertificate``.

The last element of an answer is the trust bundle: one root, or all of them while there are several, as with Istio. A
request may name the proxy's node id in its metadata, by which the ledger knows what the certificate replaces.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from pymesh.control.identity.authority import AuthorityError, Issued
from pymesh.control.identity.bearer import authenticated
from pymesh.control.identity.csr import BadRequestError, WrongIdentityError
from pymesh.control.identity.metrics import IdentityMetrics
from pymesh.control.identity.rotation import Rotation
from pymesh.control.identity.spiffe import Identity
from pymesh.control.identity.tokens import Authenticator
from pymesh.control.identity.trust import Trust
from pymesh.control.xds import pb
from pymesh.control.xds.grpc import Call, GRPCError, Method, Status

log = logging.getLogger(__name__)

PATH = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
#: Longest lifetime that can be asked for at all; policy lowers it further.
_MOST_SECONDS = 10 * 365 * 24 * 3600
#: In a request's metadata: which proxy of the identity asks.
NODE_ID = "NODE_ID"
#: Istio's have the name of the pod and twice its namespace.
_LONGEST_NODE_ID = 512


class CertificateService:
    """Signs requests of authenticated workloads."""

    def __init__(
        self,
        rotation: Rotation,
        authenticator: Authenticator,
        metrics: IdentityMetrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._rotation = rotation
        self._authenticator = authenticator
        self._metrics = metrics
        self._clock = clock

    def methods(self) -> dict[str, Method]:
        """The methods to serve, by path."""
        return {PATH: Method(self._create, streaming=False)}

    async def _create(self, call: Call) -> None:
        self._metrics.requests.inc()
        try:
            identity = await authenticated(call, self._authenticator)
        except GRPCError as error:
            if error.status is Status.UNAUTHENTICATED:
                self._metrics.unauthenticated.inc()
            raise
        content = await call.receive()
        try:
            request = pb.IstioCertificateRequest.FromString(content or b"")
        except pb.DecodeError as error:
            self._metrics.unreadable.inc()
            raise GRPCError(Status.INVALID_ARGUMENT, "the request is not a valid message") from error
        asked = request.validity_duration
        requested = timedelta(seconds=min(asked, _MOST_SECONDS)) if asked > 0 else None
        try:
            issued, trust = await self._signed(request.csr, identity, requested)
            self._rotation.issued(issued, trust, identity, _node(request))
        except BadRequestError as error:
            self._metrics.unreadable.inc()
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from error
        except WrongIdentityError as error:
            self._metrics.wrong_identity.inc()
            log.warning("signing request for another identity", extra={"caller": str(identity), "peer": call.peer})
            raise GRPCError(Status.PERMISSION_DENIED, str(error)) from error
        except OSError as error:
            self._metrics.sign_errors.inc()
            log.error("the ledger cannot be written", extra={"reason": str(error)})
            raise GRPCError(Status.UNAVAILABLE, "the certificate could not be recorded") from error
        except AuthorityError as error:
            self._metrics.sign_errors.inc()
            log.error("cannot sign", extra={"reason": str(error)})
            raise GRPCError(Status.FAILED_PRECONDITION, str(error)) from error
        self._metrics.issued.inc()
        log.info(
            "certificate issued",
            extra={
                "identity": str(identity),
                "serial": f"{issued.serial:x}",
                "until": issued.not_after.isoformat(),
                "peer": call.peer,
            },
        )
        chain = [*issued.chain[:-1], trust.bundle]
        await call.send(pb.encode(pb.IstioCertificateResponse(cert_chain=chain)))

    async def _signed(self, csr: str, identity: Identity, requested: timedelta | None) -> tuple[Issued, Trust]:
        """A leaf, and what was trusted all the while that it was made."""
        while True:
            trust = self._rotation.trust
            # Signing takes long enough (RSA: milliseconds) to hold up pushes if done on the loop.
            issued = await asyncio.to_thread(trust.signer.sign, csr, identity, self._clock(), requested)
            if self._rotation.trust is trust:
                return issued, trust


def _node(request: Any) -> str:
    """The node id that a request names; none if it is too long to be one."""
    found = request.metadata.fields.get(NODE_ID)
    node = str(found.string_value) if found is not None else ""
    return node if len(node) <= _LONGEST_NODE_ID else ""
