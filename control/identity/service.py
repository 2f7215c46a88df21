"""Istio's certificate service: ``istio.v1.auth.IstioCertificateService/CreateCertificate``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from pymesh.control.identity.authority import AuthorityError, CertificateAuthority
from pymesh.control.identity.bearer import authenticated
from pymesh.control.identity.csr import BadRequestError, WrongIdentityError
from pymesh.control.identity.metrics import IdentityMetrics
from pymesh.control.identity.tokens import Authenticator
from pymesh.control.xds import pb
from pymesh.control.xds.grpc import Call, GRPCError, Method, Status

log = logging.getLogger(__name__)

PATH = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
#: Longest lifetime that can be asked for at all; policy lowers it further.
_MOST_SECONDS = 10 * 365 * 24 * 3600


class CertificateService:
    """Signs requests of authenticated workloads."""

    def __init__(
        self,
        authority: CertificateAuthority,
        authenticator: Authenticator,
        metrics: IdentityMetrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._authority = authority
        self._authenticator = authenticator
        self._metrics = metrics
        self._clock = clock
        metrics.root_expiry.set(authority.root.not_valid_after_utc.timestamp())

    def methods(self) -> dict[str, Method]:
        """The methods to serve, by path."""
        return {PATH: Method(self._create, streaming=False)}

    async def _create(self, call: Call) -> None:
        self._metrics.requests.inc()
        try:
            identity = authenticated(call, self._authenticator)
        except GRPCError:
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
            # Signing takes long enough (RSA: milliseconds) to hold up pushes if done on the loop.
            issued = await asyncio.to_thread(self._authority.sign, request.csr, identity, self._clock(), requested)
        except BadRequestError as error:
            self._metrics.unreadable.inc()
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from error
        except WrongIdentityError as error:
            self._metrics.wrong_identity.inc()
            log.warning("signing request for another identity", extra={"caller": str(identity), "peer": call.peer})
            raise GRPCError(Status.PERMISSION_DENIED, str(error)) from error
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
        await call.send(pb.encode(pb.IstioCertificateResponse(cert_chain=issued.chain)))
