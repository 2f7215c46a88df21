"""The authority in use, and the guards of its rotation: no change leaves a proxy behind.

:class:`Rotation` holds the one :class:`~pymesh.control.identity.trust.Trust` of a control plane. A change is first
judged, then kept on disk, then in use, then told; a crash between any two of these is a restart with the phase before
or after it, both of which are good.

* ``activate`` is refused while a proxy has not taken the trust bundle: it would refuse those who renew first.
* ``revoke`` is refused while a proxy holds a certificate that no root would be left for: it would be refused by all.
  One that went out a moment ago may not be in use yet.

Both name the proxies. ``force`` does it all the same: for a root whose key is no longer its owner's alone, or for
proxies that are gone for good. What a proxy has taken is known from its acknowledgement on an xDS stream, or from the
bundle that went out with its certificate where it does not ask for the bundle by xDS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from pymesh.control.identity.authority import CertificateAuthority, Issued, fingerprint
from pymesh.control.identity.ledger import Holding, Ledger
from pymesh.control.identity.spiffe import Identity
from pymesh.control.identity.trust import PhaseError, Trust

log = logging.getLogger(__name__)

#: How long a proxy may take from being sent a certificate to showing it to everybody.
SETTLED = timedelta(seconds=2)
#: Proxies that a refusal names.
_NAMED = 10


class RotationError(Exception):
    """A change that is refused: why, and what to do."""


class Subscriber(Protocol):
    """A proxy that asks for the trust bundle by xDS."""

    @property
    def key(self) -> tuple[str, str]:
        """Identity and node id."""

    @property
    def has_bundle(self) -> bool:
        """Whether it has acknowledged the bundle as it is now."""


class Rotation:
    """See the module. Used from the event loop only."""

    def __init__(
        self,
        trust: Trust,
        ledger: Ledger,
        keep: Callable[[Trust], None],
        clock: Callable[[], datetime],
        make: Callable[[], CertificateAuthority] | None,
    ) -> None:
        """``keep`` writes the trust to disk; ``make`` makes a new authority, None where an operator supplies it."""
        self._trust = trust
        self._ledger = ledger
        self._keep = keep
        self._clock = clock
        self._make = make
        self._told: list[Callable[[], None]] = []
        #: Set by the discovery service.
        self.subscribers: Callable[[], Iterable[Subscriber]] = tuple

    @property
    def trust(self) -> Trust:
        """What is in use."""
        return self._trust

    @property
    def is_supplied(self) -> bool:
        """Whether new authorities come from an operator's files."""
        return self._make is None

    def on_change(self, told: Callable[[], None]) -> None:
        """Call ``told`` after every change."""
        self._told.append(told)

    def issued(self, issued: Issued, trust: Trust, identity: Identity, node: str) -> None:
        """A certificate of ``trust.signer`` is about to go to a proxy, with ``trust``'s bundle."""
        root = fingerprint(trust.signer.root)
        end, now = int(issued.not_after.timestamp()), self._clock()
        held = Holding(str(identity), node, f"{issued.serial:x}", root, trust.version, now.timestamp(), end)
        self._ledger.record(held, now)

    def prepare(self) -> None:
        """Phase 1: a new authority of our own, trusted beside the one that signs."""
        if self._make is None:
            raise RotationError("the authority is an operator's; hint: replace its files, they are followed")
        self.prepare_supplied(self._make())

    def prepare_supplied(self, new: CertificateAuthority) -> None:
        """Phase 1, with an authority from an operator's files."""
        self._use(_asked(lambda: self._trust.prepared(new)))

    def activate(self, *, force: bool = False) -> None:
        """Phase 2: the new authority signs."""
        fresh = _asked(self._trust.activated)
        _judge(self.without_bundle(), "has not taken the new root yet", force)
        self._use(fresh)

    def revoke(self, which: str = "", *, force: bool = False) -> None:
        """Phase 3: the old authority is not trusted any more. Or the one that is to come is given up."""
        fresh = _asked(lambda: self._trust.revoked(which))
        _judge(self.stranded(fresh), "holds a certificate of the old root", force)
        self._use(fresh)

    def without_bundle(self) -> list[str]:
        """Proxies that have not taken the bundle as it is now."""
        now, version = self._clock(), self._trust.version
        asking: dict[tuple[str, str], bool] = {}
        for one in self.subscribers():
            asking[one.key] = asking.get(one.key, False) or one.has_bundle
        missing = {key: _name(key) for key, has_bundle in asking.items() if not has_bundle}
        for held in self._ledger.live(now):
            if held.key not in asking and held.bundle != version:
                missing[held.key] = str(held)
        return sorted(missing.values())

    def stranded(self, left: Trust) -> list[str]:
        """Proxies whose certificate would lead to no root of ``left``."""
        roots, now = left.root_ids, self._clock()
        settled = (now - SETTLED).timestamp()
        found = []
        for held in self._ledger.live(now):
            if held.root not in roots:
                found.append(str(held))
            elif held.since > settled:
                found.append(f"{held}, renewed a moment ago")
        return sorted(found)

    def certificates(self) -> dict[str, int]:
        """Root -> how many proxies hold a certificate that leads there."""
        found = dict.fromkeys((fingerprint(one) for one in self._trust.roots), 0)
        for held in self._ledger.live(self._clock()):
            found[held.root] = found.get(held.root, 0) + 1
        return found

    def status(self) -> dict[str, Any]:
        """For people and scripts."""
        trust = self._trust
        holders = self.certificates()
        found: dict[str, Any] = {
            "phase": trust.phase,
            "supplied": self.is_supplied,
            "authorities": [
                {
                    "id": one.id,
                    "signs": one is trust.signer,
                    "subject": one.certificate.subject.rfc4514_string(),
                    "until": one.certificate.not_valid_after_utc.isoformat(),
                    "root": fingerprint(one.root),
                }
                for one in trust.authorities
            ],
            "roots": [
                {
                    "id": fingerprint(one),
                    "subject": one.subject.rfc4514_string(),
                    "until": one.not_valid_after_utc.isoformat(),
                    "certificates": holders[fingerprint(one)],
                }
                for one in trust.roots
            ],
        }
        if trust.phase == "prepared":
            found["next"] = {"command": "activate", "waitsFor": self.without_bundle()}
        elif trust.phase == "activated":
            found["next"] = {"command": "revoke", "waitsFor": self.stranded(trust.revoked())}
        return found

    def _use(self, fresh: Trust) -> None:
        try:
            self._keep(fresh)
        except OSError as error:
            raise RotationError(f"{error.filename}: {error.strerror}; nothing has changed") from error
        self._trust = fresh
        log.warning(
            "certificate authority",
            extra={"phase": fresh.phase, "signs": fresh.signer.id, "roots": sorted(fresh.root_ids)},
        )
        for told in self._told:
            told()


def _asked(change: Callable[[], Trust]) -> Trust:
    try:
        return change()
    except PhaseError as error:
        raise RotationError(str(error)) from error


def _judge(left_behind: Sequence[str], what: str, force: bool) -> None:
    if not left_behind:
        return
    count, named = len(left_behind), left_behind[:_NAMED]
    if force:
        log.warning("proxies are left behind", extra={"count": count, "proxies": named, "why": what})
        return
    shown = "".join(f"\n  {one}" for one in named)
    more = f"\n  and {count - _NAMED} more" if count > _NAMED else ""
    lines = f"{count} of the proxies would be left behind; each of them {what}:{shown}{more}"
    raise RotationError(f"{lines}\nhint: wait until they have renewed, or --force if they are gone for good")


def _name(key: tuple[str, str]) -> str:
    identity, node = key
    return f"{node} ({identity})"
