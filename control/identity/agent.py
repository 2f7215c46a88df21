"""A companion for a foreign sidecar: keeps its certificate fresh and hands it over by SDS on a Unix socket.

Our own proxy makes its key and asks for its certificate itself. Envoy cannot, so this process does what
Istio's pilot-agent does: it makes a key, has it certified with the workload's token, serves the secrets
``default`` and ``ROOTCA``, and replaces them at half of the certificate's life. Only the owner of the
socket can connect.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry

from pymesh.control.admin import logs
from pymesh.control.config import Address
from pymesh.control.identity import private_files
from pymesh.control.identity.client import CertificateClient, Credentials, SigningError, tls_context
from pymesh.control.xds import pb
from pymesh.control.xds.cache import ResourceCache, Snapshot
from pymesh.control.xds.fleet import Fleet
from pymesh.control.xds.grpc import GrpcServer
from pymesh.control.xds.metrics import XdsMetrics
from pymesh.control.xds.node import Node
from pymesh.control.xds.server import DiscoveryService

log = logging.getLogger(__name__)

CERTIFICATE = "default"
ROOT = "ROOTCA"
FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What ``pymesh agent`` was asked to do."""

    control: Address
    #: File of mode 0600 with the workload's token, read for every request.
    token: Path
    #: Unix socket to serve secrets on.
    socket: Path
    #: The control plane's root certificate; None for cleartext, on loopback only.
    root: Path | None
    #: Lifetime to ask for; 0 leaves it to the control plane.
    lifetime_seconds: int = 0


class Agent:
    """One workload's secrets, served and rotated."""

    def __init__(self, settings: AgentSettings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        if settings.root is None and not settings.control.loopback:
            raise ValueError(f"cleartext to {settings.control} would show the token; hint: give the root certificate")
        self._settings = settings
        self._clock = clock
        tls = tls_context(settings.root) if settings.root is not None else None
        self._client = CertificateClient(settings.control.host, settings.control.port, tls)
        self._cache = ResourceCache()
        self._secrets: dict[str, pb.Message] = {}
        metrics = XdsMetrics(CollectorRegistry())
        self._fleet = Fleet(self._snapshot, metrics, quiet=0.0, longest=0.0)
        self._server = GrpcServer(DiscoveryService(self._fleet, None, metrics).secret_methods())

    async def run(self, stop: asyncio.Event, started: Callable[[], None]) -> None:
        """Serve until ``stop``; ``started`` is called when the first certificate is there and served."""
        credentials = await self._until_obtained(stop)
        if credentials is None:
            return
        self._replace(credentials)
        try:
            # The socket guards the key: nobody else may open it, from the moment it exists.
            mask = os.umask(0o177)
            try:
                await self._server.start_unix(str(self._settings.socket))
            finally:
                os.umask(mask)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._fleet.run()),
                    group.create_task(self._rotate(credentials, stop)),
                ]
                started()
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await self._server.stop()
            self._settings.socket.unlink(missing_ok=True)

    async def _rotate(self, credentials: Credentials, stop: asyncio.Event) -> None:
        while True:
            # Half of what is left now: the certificate is backdated, which is no part of its useful life.
            left = (credentials.not_after - self._clock()).total_seconds()
            await asyncio.sleep(max(left / 2, FIRST_RETRY_SECONDS))
            renewed = await self._until_obtained(stop)
            if renewed is None:
                return
            credentials = renewed
            self._replace(credentials)

    async def _until_obtained(self, stop: asyncio.Event) -> Credentials | None:
        """New credentials, however long it takes; None when told to stop."""
        pause = FIRST_RETRY_SECONDS
        while not stop.is_set():
            try:
                token = private_files.read(self._settings.token, limit=64 << 10).decode().strip()
                return await self._client.obtain(token, self._settings.lifetime_seconds)
            except (SigningError, OSError, ValueError, private_files.InsecureFileError) as error:
                log.warning("no certificate yet", extra={"reason": str(error), "retry_in": round(pause, 1)})
            # Full jitter: after an outage not every workload asks in the same moment.
            waited = asyncio.wait_for(stop.wait(), random.uniform(0, pause))
            await asyncio.gather(waited, return_exceptions=True)
            pause = min(pause * 2, LONGEST_RETRY_SECONDS)
        return None

    def _replace(self, credentials: Credentials) -> None:
        certificate = pb.Secret(name=CERTIFICATE)
        certificate.tls_certificate.certificate_chain.inline_bytes = credentials.chain_pem
        certificate.tls_certificate.private_key.inline_bytes = credentials.key_pem
        root = pb.Secret(name=ROOT)
        root.validation_context.trusted_ca.inline_bytes = credentials.root_pem
        self._secrets = {CERTIFICATE: certificate, ROOT: root}
        self._fleet.changed()
        log.info("certificate in use", extra={"until": credentials.not_after.isoformat()})

    def _snapshot(self, node: Node, previous: Snapshot | None) -> Snapshot:
        return self._cache.snapshot({pb.SECRET: self._secrets}, previous)


def run(settings: AgentSettings, *, log_level: str = "info") -> int:
    """Run an agent until SIGTERM or SIGINT; the process's exit code."""
    logs.configure(log_level)
    uvloop.run(_run(settings))
    return 0


async def _run(settings: AgentSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def started() -> None:
        print(f"pymesh agent ready sds={settings.socket}", flush=True)  # noqa: T201 - the one line that says so

    await Agent(settings).run(stop, started)
