"""An operator's authority, followed on disk: whoever replaces the files gets the three phases of a rotation.

The files say what is wanted in the end. From there on each phase begins by itself as soon as no proxy would be left
behind: new roots are trusted at once, the new authority signs when every proxy has taken them, and what the files do
not have any more goes when no certificate needs it. `pymesh ca` shows what is waited for, and need not wait for it.
Files that do not fit together change nothing, and are told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from pymesh.control.identity import private_files, storage
from pymesh.control.identity.authority import AuthorityError, CertificateAuthority, LifetimePolicy
from pymesh.control.identity.rotation import Rotation, RotationError

log = logging.getLogger(__name__)

#: How often the files are looked at, and whether the next phase can begin.
INTERVAL_SECONDS = 1.0


class SuppliedAuthority:
    """See the module."""

    def __init__(self, rotation: Rotation, folder: Path, policy: LifetimePolicy, clock: Callable[[], datetime]) -> None:
        self._rotation = rotation
        self._folder = folder
        self._policy = policy
        self._clock = clock
        self._stamp: object = None
        self._wanted: CertificateAuthority | None = None
        self._told = ""

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(INTERVAL_SECONDS)

    def look(self) -> None:
        """One look, and one step if there is one to take."""
        try:
            self._read()
            self._step()
        except (AuthorityError, RotationError) as error:
            if str(error) != self._told:
                self._told = str(error)
                log.warning("the supplied authority waits", extra={"reason": str(error)})
        else:
            self._told = ""

    def _read(self) -> None:
        stamp = tuple(private_files.stamp(self._folder / name) for name in storage.SUPPLIED_FILES)
        if stamp == self._stamp:
            return
        # Written one after the other: what does not fit together now may fit at the next look.
        self._wanted = storage.open_supplied(self._folder, self._clock(), self._policy)
        self._stamp = stamp

    def _step(self) -> None:
        trust, wanted = self._rotation.trust, self._wanted
        if wanted is None:
            return
        if trust.phase == "activated":
            self._rotation.revoke()
        elif trust.other is not None and wanted.is_like(trust.signer):
            self._rotation.revoke(trust.other.id)
        elif trust.other is not None and wanted.is_like(trust.other):
            self._rotation.activate()
        elif not wanted.is_like(trust.signer):
            self._rotation.prepare_supplied(wanted)
