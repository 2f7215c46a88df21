"""Workloads of a cluster prove themselves with the projected token of their service account, as with Istio.

The API server judges a token (TokenReview); it must be one for :data:`AUDIENCE`, so that a token that a workload
shows to somebody else is worth nothing here. A gateway is who may list the Secrets of its namespace by the cluster's
own rules (SubjectAccessReview): it is given nothing that it could not read itself. So are the
proxies that we have started for a Gateway, by their service account: who may start a pod as that could have it read
the Secrets.

What cannot be such a token is refused without asking, so that nobody makes us ask for nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from pymesh.control.identity.spiffe import Identity
from pymesh.control.identity.tokens import MAX_TOKEN, UnavailableError
from pymesh.control.identity.verdicts import HELD_FOR, Verdict, Verdicts

log = logging.getLogger(__name__)

#: Whom a workload's token is for: Istio's name, so that pods that were injected by either work with both.
AUDIENCE: Final = "istio-ca"
TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
SUBJECT_ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
#: What an API server is asked at one time; the others wait.
_AT_ONCE = 16
#: Questions that wait, each with its token: those of a large mesh that comes back at once, not those that anybody can
#: ask by connecting again and again.
_MOST_WAITING = 4096
_SERVICE_ACCOUNT = "system:serviceaccount:"

Json = Mapping[str, Any]
#: Creates an object at a path of the API server and gives back what it made of it. Raises ``UnavailableError``.
Create = Callable[[str, Json], Awaitable[Json]]


def _now() -> datetime:
    return datetime.now(UTC)


class _Claims(msgspec.Struct):
    """What matters of a token that nobody has judged yet."""

    aud: str | list[str] = ""
    exp: float | None = None


class TokenReviews:
    """An ``Authenticator`` that asks the cluster's API server."""

    def __init__(
        self,
        create: Create,
        trust_domain: str,
        audience: str = AUDIENCE,
        clock: Callable[[], datetime] = _now,
        runs_gateway: Callable[[Identity], bool] = lambda _: False,
    ) -> None:
        """``runs_gateway`` tells of who runs a Gateway by our doing."""
        self._create = create
        self._trust_domain = trust_domain
        self._audience = audience
        self._clock = clock
        self._runs_gateway = runs_gateway
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0
        #: By the token's hash: the tokens themselves are not kept.
        self._identities: Verdicts[bytes, Identity | None] = Verdicts(clock)
        self._readers: Verdicts[Identity, bool] = Verdicts(clock)

    async def authenticate(self, token: str) -> Identity | None:
        """See ``Authenticator``."""
        claims = _claims(token)
        if claims is None or self._audience not in _listed(claims.aud):
            return None
        ends = _end(claims, self._clock())
        if self._clock() >= ends:
            return None
        hashed = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        return await self._identities.of(hashed, lambda: self._review(token, ends))

    async def is_gateway(self, identity: Identity) -> bool:
        """See ``Authenticator``."""
        return await self.reads_secrets(identity)

    async def reads_secrets(self, identity: Identity) -> bool:
        """See ``Authenticator``: a pod must not have by its proxy what its service account may not read."""
        return self._runs_gateway(identity) or bool(
            await self._readers.of(identity, lambda: self._may_list_secrets(identity))
        )

    async def _review(self, token: str, ends: datetime) -> Verdict[Identity | None]:
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        status = await self._asked(TOKEN_REVIEWS, asked)
        identity = self._identity(status)
        return Verdict(identity, ends, is_holding=identity is not None)

    async def _asked(self, path: str, question: Json) -> Json:
        if self._waiting >= _MOST_WAITING:
            raise UnavailableError("too many wait for the API server's judgement")
        self._waiting += 1
        try:
            async with self._at_once:
                return (await self._create(path, question)).get("status") or {}
        finally:
            self._waiting -= 1

    def _identity(self, status: Json) -> Identity | None:
        if not status.get("authenticated"):
            log.info("token refused", extra={"reason": str(status.get("error", ""))[:500]})
            return None
        # An API server that knows nothing of audiences names none, and has not looked at ours.
        if self._audience not in (status.get("audiences") or ()):
            log.warning("token refused: it is for another audience", extra={"audiences": status.get("audiences")})
            return None
        user = str((status.get("user") or {}).get("username", ""))
        namespace, _, account = user.removeprefix(_SERVICE_ACCOUNT).partition(":")
        if not user.startswith(_SERVICE_ACCOUNT) or not namespace or not account:
            log.warning("token refused: it is no service account's", extra={"user": user})
            return None
        try:
            return Identity(self._trust_domain, namespace, account)
        except ValueError as error:
            log.warning("token refused", extra={"reason": str(error)})
            return None

    async def _may_list_secrets(self, identity: Identity) -> Verdict[bool]:
        asked = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"{_SERVICE_ACCOUNT}{identity.namespace}:{identity.service_account}",
                "groups": [
                    "system:serviceaccounts",
                    f"system:serviceaccounts:{identity.namespace}",
                    "system:authenticated",
                ],
                "resourceAttributes": {
                    "namespace": identity.namespace,
                    "verb": "list",
                    "version": "v1",
                    "resource": "secrets",
                },
            },
        }
        status = await self._asked(SUBJECT_ACCESS_REVIEWS, asked)
        is_allowed = status.get("allowed") is True
        return Verdict(is_allowed, self._clock() + HELD_FOR, is_holding=is_allowed)


def _claims(token: str) -> _Claims | None:
    """What a token says of itself; None for what is no JWT."""
    if len(token) > MAX_TOKEN:
        return None
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=_Claims)
    except (binascii.Error, ValueError):  # msgspec's errors among them
        return None


def _listed(audience: str | list[str]) -> list[str]:
    return [audience] if isinstance(audience, str) else audience


def _end(claims: _Claims, now: datetime) -> datetime:
    longest = now + HELD_FOR
    if claims.exp is None:
        return longest
    try:
        return min(datetime.fromtimestamp(claims.exp, UTC), longest)
    except (OverflowError, ValueError, OSError):
        return longest
