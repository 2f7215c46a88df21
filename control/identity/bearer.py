"""Bearer tokens on calls: the first thing that is looked at, before any message is read."""

from __future__ import annotations

from pymesh.control.identity.spiffe import Identity
from pymesh.control.identity.tokens import Authenticator, UnavailableError
from pymesh.control.xds.grpc import Call, GRPCError, Status

_SCHEME = "bearer "


async def authenticated(call: Call, authenticator: Authenticator) -> Identity:
    """The caller's identity. Raises ``UNAUTHENTICATED``, and ``UNAVAILABLE`` where nobody can tell right now; what was
    presented is not repeated.
    """
    header = call.header("authorization")
    if header[: len(_SCHEME)].lower() != _SCHEME:
        raise GRPCError(Status.UNAUTHENTICATED, "send the workload's token: authorization: Bearer ...")
    try:
        identity = await authenticator.authenticate(header[len(_SCHEME) :].strip())
    except UnavailableError as error:
        raise GRPCError(Status.UNAVAILABLE, str(error)) from error
    if identity is None:
        raise GRPCError(Status.UNAUTHENTICATED, "the token is not known")
    return identity
