"""Bearer tokens of workloads: who judges them, and the judge of a mesh without a cluster (that of a cluster is
:mod:`pymesh.control.identity.token_review`).

The local implementation is a file of hashes, so that reading the file does not give a token away:

    {"<sha256 of the token, hex>": {"namespace": "shop", "serviceAccount": "cart"}}

An entry may have an end, ``"expires": "2026-01-02T03:04:05Z"``. One of a gateway says ``"gateway": true``: it alone is
given what gateways are, the keys of its namespace's Secrets among them.

The file must have mode 0600 and is read again whenever it changes. A change that cannot be read keeps the
tokens that were valid before, and is logged.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from pymesh.control.identity import private_files
from pymesh.control.identity.spiffe import Identity

log = logging.getLogger(__name__)

_HASH = re.compile(r"[0-9a-f]{64}")
#: Longer tokens are refused unread; service account JWTs are below 4 KiB.
MAX_TOKEN = 16 * 1024


def _now() -> datetime:
    return datetime.now(UTC)


class UnavailableError(Exception):
    """Whoever knows about tokens cannot be asked right now: why."""


class Authenticator(Protocol):
    """Turns a bearer token into an identity. All questions raise :class:`UnavailableError`."""

    async def authenticate(self, token: str) -> Identity | None:
        """The identity that ``token`` proves, or None."""

    async def is_gateway(self, identity: Identity) -> bool:
        """Whether proxies of this identity may stand at the mesh's edge."""

    async def reads_secrets(self, identity: Identity) -> bool:
        """Whether it may have the Secrets of its namespace: without, a proxy is given none of them."""


@dataclass(frozen=True, slots=True)
class AnyOf:
    """An :class:`Authenticator` of several, asked in their order."""

    judges: Sequence[Authenticator]

    async def authenticate(self, token: str) -> Identity | None:
        """What the first says that knows the token."""
        for one in self.judges:
            identity = await one.authenticate(token)
            if identity is not None:
                return identity
        return None

    async def is_gateway(self, identity: Identity) -> bool:
        """Whether one of them says so."""
        for one in self.judges:
            if await one.is_gateway(identity):
                return True
        return False

    async def reads_secrets(self, identity: Identity) -> bool:
        """Whether one of them says so."""
        for one in self.judges:
            if await one.reads_secrets(identity):
                return True
        return False


class TokenFileError(Exception):
    """The token file cannot be used: what, where and how to fix it."""


class _Workload(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    namespace: str
    service_account: str
    gateway: bool = False
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    hashed: bytes
    identity: Identity
    is_gateway: bool
    expires: datetime | None

    def is_good(self, now: datetime) -> bool:
        return self.expires is None or now < self.expires


class TokenFile:
    """An :class:`Authenticator` over a file of token hashes."""

    def __init__(self, path: Path, trust_domain: str, clock: Callable[[], datetime] = _now) -> None:
        self._path = path
        self._clock = clock
        self._trust_domain = trust_domain
        self._stamp = private_files.stamp(self._path)
        self._entries = self._load()

    async def authenticate(self, token: str) -> Identity | None:
        if not token or len(token) > MAX_TOKEN:
            return None
        self._reload_if_changed()
        presented = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found: _Entry | None = None
        # Every entry is compared, in constant time each: neither order nor success shows in the duration.
        for entry in self._entries:
            if hmac.compare_digest(entry.hashed, presented):
                found = entry
        return found.identity if found is not None and found.is_good(self._clock()) else None

    async def is_gateway(self, identity: Identity) -> bool:
        now = self._clock()
        return any(one.is_gateway and one.identity == identity and one.is_good(now) for one in self._entries)

    async def reads_secrets(self, identity: Identity) -> bool:
        """Whoever is in the file: the Secrets are files as well, of the same people."""
        now = self._clock()
        return any(one.identity == identity and one.is_good(now) for one in self._entries)

    def _reload_if_changed(self) -> None:
        stamp = private_files.stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._entries = self._load()
        except TokenFileError as error:
            log.error("token file not reloaded, the old tokens stay valid", extra={"reason": str(error)})
        else:
            log.info("token file reloaded", extra={"tokens": len(self._entries)})

    def _load(self) -> list[_Entry]:
        try:
            content = private_files.read(self._path, limit=16 << 20)
            entries = msgspec.json.decode(content, type=dict[str, _Workload])
        except OSError as error:
            raise TokenFileError(f"{self._path}: {error.strerror}") from error
        except private_files.InsecureFileError as error:
            raise TokenFileError(str(error)) from error
        except msgspec.DecodeError as error:
            raise TokenFileError(f"{self._path}: {error}") from error
        found = []
        for number, (hashed, workload) in enumerate(entries.items(), start=1):
            if not _HASH.fullmatch(hashed):
                raise TokenFileError(
                    f"{self._path}: entry {number}: the key is not a sha256 in lower-case hex; "
                    "hint: hash the token, never store it"
                )
            try:
                identity = Identity(self._trust_domain, workload.namespace, workload.service_account)
            except ValueError as error:
                raise TokenFileError(f"{self._path}: entry {number}: {error}") from error
            found.append(_Entry(bytes.fromhex(hashed), identity, workload.gateway, workload.expires))
        return found
