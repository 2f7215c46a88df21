"""A companion for a foreign sidecar: keeps its certificate fresh and hands it over by SDS on a Unix socket.

Our own proxy makes its key and asks for its certificate itself. Envoy cannot, so this process does what
Istio's pilot-agent does: it makes a key, has it certified with the workload's token, serves the secrets
``default`` and ``ROOTCA``, and replaces the certificate at half of its life. Only the owner of the socket
can connect.

The roots come from the control plane as they change; its word on the stream is newer than what came with a
certificate. When another root signs (it comes first then), the certificate is replaced soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import socket
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
from pymesh.control.identity.names import CERTIFICATE, ROOTS
from pymesh.control.xds import pb
from pymesh.control.xds.cache import ResourceCache, Snapshot
from pymesh.control.xds.fleet import Fleet
from pymesh.control.xds.grpc import GrpcServer
from pymesh.control.xds.metrics import XdsMetrics
from pymesh.control.xds.node import Node
from pymesh.control.xds.server import DiscoveryService

log = logging.getLogger(__name__)

#: Over how long a mesh spreads its requests when another root signs.
SPREAD_SECONDS = 10.0
FIRST_RETRY_SECONDS = 0.5
#: A proxy that is told of roots and does not take them.
LONGEST_IN_USE_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What ``pymesh agent`` was asked to do."""

    control: Address
    #: File of mode 0600 with the workload's token, read for every request.
    token: Path
    #: Unix socket to serve secrets on.
    socket: Path
    #: The roots that are trusted at the start; None for cleartext, on loopback only.
    root: Path | None
    #: Node id of the proxy beside it; by default one of this machine's name.
    node: str = ""
    #: Lifetime to ask for; 0 leaves it to the control plane.
    lifetime_seconds: int = 0


class Agent:
    """One workload's secrets, served and rotated."""

    def __init__(self, settings: AgentSettings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        if settings.root is None and not settings.control.loopback:
            raise ValueError(f"cleartext to {settings.control} would show the token; hint: give the root certificate")
        self._settings = settings
        self._clock = clock
        # Who was not told one is known by the machine; the namespace is the token's.
        self._node = settings.node or f"sidecar~127.0.0.1~{socket.gethostname().partition('.')[0]}.~"
        self._roots = settings.root.read_bytes() if settings.root is not None else b""
        #: The roots on the stream have changed, or have come for the first time.
        self._news = asyncio.Event()
        self._hears_roots = False
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
            with private_files.owner_only():  # the socket guards the key
                await self._server.start_unix(str(self._settings.socket))
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._fleet.run()),
                    group.create_task(self._rotate(credentials, stop)),
                    group.create_task(self._follow_roots()),
                ]
                started()
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await self._server.stop()
            self._settings.socket.unlink(missing_ok=True)
            # Connections to the control plane close in the turns after this one.
            await asyncio.sleep(0.1)

    async def _rotate(self, credentials: Credentials, stop: asyncio.Event) -> None:
        while True:
            # Half of what is left now: the certificate is backdated, which is no part of its useful life.
            left = (credentials.not_after - self._clock()).total_seconds()
            try:
                async with asyncio.timeout(max(left / 2, FIRST_RETRY_SECONDS)):
                    await self._other_root_signs(credentials)
                    await asyncio.sleep(random.uniform(0, SPREAD_SECONDS))
            except TimeoutError:
                pass
            asked_for = self._roots
            renewed = await self._until_obtained(stop)
            if renewed is None:
                return
            credentials = renewed
            self._replace(credentials)
            if self._roots == asked_for:
                # An authority may give its roots in another order: it is not asked again for the same ones.
                self._news.clear()

    async def _other_root_signs(self, credentials: Credentials) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if not credentials.is_of_first(self._roots):
                return

    async def _follow_roots(self) -> None:
        pause = FIRST_RETRY_SECONDS
        while True:
            try:
                async with contextlib.aclosing(self._client().roots(self._token(), self._node)) as stream:
                    async for roots in stream:
                        pause = FIRST_RETRY_SECONDS
                        self._hears_roots = True
                        if roots != self._roots:
                            self._take_roots(roots)
                        await self._roots_in_use()
            except (SigningError, OSError, ValueError, private_files.InsecureFileError) as error:
                log.warning("no word of roots", extra={"reason": str(error), "retry_in": round(pause, 1)})
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(pause * 2, LONGEST_RETRY_SECONDS)

    async def _roots_in_use(self) -> None:
        """Until the proxy has them, so that the control plane does not hear of it before."""
        deadline = asyncio.get_running_loop().time() + LONGEST_IN_USE_SECONDS
        version = self._cache.resource(pb.SECRET, ROOTS, self._secrets[ROOTS]).version
        while asyncio.get_running_loop().time() < deadline:
            sessions = [one.session for one in self._fleet.connections()]
            if all(one.has_taken(pb.SECRET, ROOTS, version) for one in sessions if one.asks_for(pb.SECRET, ROOTS)):
                return
            await asyncio.sleep(0.02)
        log.warning("the proxy has not taken the roots", extra={"seconds": LONGEST_IN_USE_SECONDS})

    def _client(self) -> CertificateClient:
        control = self._settings.control
        tls = tls_context(self._roots) if self._settings.root is not None else None
        return CertificateClient(control.host, control.port, tls)

    def _token(self) -> str:
        return private_files.read(self._settings.token, limit=64 << 10).decode().strip()

    async def _until_obtained(self, stop: asyncio.Event) -> Credentials | None:
        """New credentials, however long it takes; None when told to stop."""
        pause = FIRST_RETRY_SECONDS
        while not stop.is_set():
            try:
                return await self._client().obtain(self._token(), self._settings.lifetime_seconds, self._node)
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
        self._secrets = {**self._secrets, CERTIFICATE: certificate}
        if not self._hears_roots:
            self._take_roots(credentials.roots_pem)
        self._fleet.changed()
        log.info("certificate in use", extra={"until": credentials.not_after.isoformat()})

    def _take_roots(self, pem: bytes) -> None:
        self._roots = pem
        secret = pb.Secret(name=ROOTS)
        secret.validation_context.trusted_ca.inline_bytes = pem
        self._secrets = {**self._secrets, ROOTS: secret}
        self._fleet.changed()
        self._news.set()
        log.info("roots in use", extra={"count": pem.count(b"-----BEGIN CERTIFICATE-----")})

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
