"""The webhooks of one control plane: its socket, its certificate and its server, from opening to closing."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from pymesh.control.admin.serving import AdminServer
from pymesh.control.admission.entrance import Entrance
from pymesh.control.admission.serving import SettingsFile, Webhooks
from pymesh.control.admission.validating import Among, Ours
from pymesh.control.config import Address
from pymesh.control.identity.rotation import Rotation
from pymesh.control.identity.serving import ServerCertificate
from pymesh.control.waiting import changed_within

log = logging.getLogger(__name__)


class AdmissionDoor:
    """See the module. Opened by its constructor."""

    def __init__(
        self,
        sock: socket.socket,
        injection: Path | None,
        among: Among,
        ours: Ours,
        rotation: Rotation,
        hosts: Sequence[str],
        state: Path,
        registry: CollectorRegistry,
        clock: Callable[[], datetime],
    ) -> None:
        """``hosts`` are the names that the API server calls us by. Raises ``ConfigError`` for bad settings."""
        host, port = sock.getsockname()[:2]
        self.address = Address(host, port)
        self._webhooks = Webhooks(SettingsFile(injection) if injection else None, among, registry, ours)
        self._clock = clock
        self._socket = sock
        self._changed = asyncio.Event()
        rotation.on_change(self._changed.set)
        self._certificate = ServerCertificate(rotation, hosts, state, clock(), protocols=("http/1.1",))
        self._server: AdminServer | None = None

    async def start(self, is_ready: Callable[[], bool]) -> None:
        """Serve in the background."""
        tls = self._certificate.context
        entrance = Entrance(self._socket, tls, self._webhooks.turned_away)
        self._server = AdminServer(self._webhooks.application(is_ready), self._socket, tls, entrance.run)
        await self._server.start()

    async def renew(self) -> None:
        """Keep the certificate good, until cancelled."""
        while True:
            wait = max((self._certificate.renew_at - self._clock()).total_seconds(), 1.0)
            if await changed_within(self._changed, wait) and not self._certificate.is_due:
                continue
            self._certificate.renew(self._clock())
            log.info("webhook certificate renewed", extra={"next": self._certificate.renew_at.isoformat()})

    async def stop(self) -> None:
        """Finish what is being answered, and close."""
        if self._server is not None:
            await self._server.stop()
        self._socket.close()
