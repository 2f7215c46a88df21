"""The control plane's own TLS certificate, from its own authority, renewed while it serves.

During a rotation it is the oldest trusted authority's (:attr:`Trust.server`): every proxy trusts that one, also one
that was away while the new root was given out.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pymesh.control.identity import private_files
from pymesh.control.identity.authority import private_pem
from pymesh.control.identity.rotation import Rotation


class ServerCertificate:
    """A TLS context whose certificate can be renewed: new handshakes use the new one, connections stay."""

    def __init__(
        self, rotation: Rotation, hosts: Sequence[str], folder: Path, now: datetime, protocols: Sequence[str] = ("h2",)
    ) -> None:
        """``protocols`` are those of ALPN that are spoken behind it."""
        self._rotation = rotation
        self._hosts = tuple(hosts)
        self._folder = folder
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(list(protocols))
        self.renew_at = self.renew(now)

    def renew(self, now: datetime) -> datetime:
        """Issue and load a new certificate; the time at which to do it again (half its life)."""
        key = ec.generate_private_key(ec.SECP256R1())
        authority = self._rotation.trust.server
        issued = authority.issue_server(key, self._hosts, now)
        # The ssl module loads keys from files only: a private one, for just that moment.
        staged = self._folder / f".serving.{secrets.token_hex(8)}.pem"
        try:
            private_files.create(staged, private_pem(key) + "".join(issued.chain).encode())
            self.context.load_cert_chain(staged)
        finally:
            staged.unlink(missing_ok=True)
        self._of = authority
        self.renew_at = now + (issued.not_after - now) / 2
        return self.renew_at

    @property
    def is_due(self) -> bool:
        """Whether another authority has to sign it now, whatever is left of its life."""
        return self._rotation.trust.server is not self._of
