"""Whom the mesh trusts and who signs, as one value; the three phases of a root rotation are its changes.

    steady ──prepare──► prepared ──activate──► activated ──revoke──► steady
       ▲                   │                                            (the other authority)
       └──────revoke───────┘   (of the one that was to come)

* steady: one authority signs, its roots are trusted.
* prepared: another one is to come. Its roots are trusted beside those of the one that signs.
* activated: the new one signs, the roots of the old one are still trusted.

What holds in every phase: the roots of whoever signs are trusted, and come first; a proxy sees by the first root
whether its certificate is of the authority that signs now. Whether a change is safe for the proxies is not known here
(see :mod:`pymesh.control.identity.rotation`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from cryptography import x509

from pymesh.control.identity.authority import CertificateAuthority, fingerprint, pem

Phase = Literal["steady", "prepared", "activated"]


class PhaseError(Exception):
    """A change that this phase does not have: what, and what to do instead."""


@dataclass(frozen=True, slots=True)
class Trust:
    """See the module."""

    signer: CertificateAuthority
    phase: Phase = "steady"
    #: Prepared: the one to come. Activated: the one to go.
    other: CertificateAuthority | None = None

    def __post_init__(self) -> None:
        if (self.other is None) != (self.phase == "steady"):
            raise ValueError(f"a {self.phase} trust with {'no' if self.other is None else 'an'} other authority")

    @property
    def authorities(self) -> tuple[CertificateAuthority, ...]:
        """Whoever signs first."""
        return (self.signer,) if self.other is None else (self.signer, self.other)

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """All that are trusted; the one to which new certificates lead comes first."""
        return tuple(dict.fromkeys(root for authority in self.authorities for root in authority.roots))

    @property
    def root_ids(self) -> frozenset[str]:
        """Of all roots."""
        return frozenset(fingerprint(root) for root in self.roots)

    @property
    def bundle(self) -> str:
        """The roots as PEM: the secret ``ROOTCA`` of every proxy."""
        return "".join(pem(root) for root in self.roots)

    @property
    def version(self) -> str:
        """Of the bundle."""
        return hashlib.sha256(self.bundle.encode()).hexdigest()[:16]

    @property
    def server(self) -> CertificateAuthority:
        """Who signs for the control plane itself: the oldest, whom also those trust that missed the preparation."""
        return self.other if self.phase == "activated" and self.other is not None else self.signer

    def prepared(self, new: CertificateAuthority) -> Trust:
        """Another authority is to come. In its place another again may: it has signed nothing yet."""
        if self.phase == "activated":
            raise PhaseError("a rotation is under way; hint: revoke the old authority first")
        if new.is_like(self.signer):
            raise PhaseError(f"authority {new.id} signs already")
        return Trust(self.signer, "prepared", new)

    def activated(self) -> Trust:
        """The one to come signs."""
        if self.phase != "prepared" or self.other is None:
            raise PhaseError("no authority is prepared; hint: prepare one first")
        return Trust(self.other, "activated", self.signer)

    def revoked(self, which: str = "") -> Trust:
        """The other authority is not trusted any more. One that is still to come has to be named, lest it is a slip."""
        if self.other is None:
            raise PhaseError("there is one authority, which signs; hint: prepare and activate another first")
        if which not in ("", self.other.id):
            reason = "it signs" if which == self.signer.id else "there is none of that name"
            raise PhaseError(f"authority {which} cannot be revoked: {reason}; hint: {self.other.id} can")
        if self.phase == "prepared" and not which:
            raise PhaseError(
                f"authority {self.other.id} is prepared and does not sign yet; hint: activate it, or name it to drop it"
            )
        return Trust(self.signer)
