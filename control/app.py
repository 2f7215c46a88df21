"""The control plane, composed: files -> mesh -> each proxy's snapshot -> streams; identity and admin
beside it.

The parts do not know each other. This module opens them in an order in which every failure is one clear
error before anything listens, and closes them in the reverse order.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import uvloop
from prometheus_client import CollectorRegistry

from pymesh.control.admin import logs, process
from pymesh.control.admin.api import ConfigView
from pymesh.control.admin.pages import application
from pymesh.control.admin.serving import AdminServer
from pymesh.control.admission.door import AdmissionDoor
from pymesh.control.config import Address, Settings
from pymesh.control.identity import door, operator, private_files, storage
from pymesh.control.identity.authority import AuthorityError, CertificateAuthority, LifetimePolicy, self_signed
from pymesh.control.identity.bundle import TrustBundle
from pymesh.control.identity.ledger import Ledger
from pymesh.control.identity.metrics import IdentityMetrics, RotationMetrics
from pymesh.control.identity.rotation import Rotation
from pymesh.control.identity.service import CertificateService
from pymesh.control.identity.serving import ServerCertificate
from pymesh.control.identity.spiffe import Identity
from pymesh.control.identity.supplied import SuppliedAuthority
from pymesh.control.identity.tokens import AnyOf, Authenticator, TokenFile, TokenFileError
from pymesh.control.live.collector import Collector, Configured
from pymesh.control.resources.diagnostics import ConfigError, Diagnostic
from pymesh.control.resources.metadata import Resource
from pymesh.control.translate.proxy import ProxyError
from pymesh.control.waiting import changed_within
from pymesh.control.xds import pb
from pymesh.control.xds.cache import ResourceCache, Snapshot
from pymesh.control.xds.fleet import Fleet
from pymesh.control.xds.grpc import GrpcServer
from pymesh.control.xds.metrics import XdsMetrics
from pymesh.control.xds.node import Node, NodeRefusedError, NotYetError
from pymesh.control.xds.server import DiscoveryService

log = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class Mesh(ConfigView, Configured, Protocol):
    """The users' configuration, kept current, and what it means for one proxy."""

    def load(self) -> list[str]:
        """Read everything for the first time. Returns all errors, ready to print; none means that it is
        in use.
        """

    async def synced(self) -> None:
        """Return once there is a whole configuration to serve; ``watch`` runs meanwhile."""

    async def watch(self, changed: Callable[[], None]) -> None:
        """Follow the sources until cancelled; call ``changed`` after every change of what is in use."""

    def about(self, new: Resource) -> Sequence[Diagnostic]:
        """What would be found about a resource if it were among those in force."""

    def ours(self, one: Any) -> tuple[Any, bool] | None:
        """What of an object of an API server is for this mesh, and whether that is sure; None: it is others'."""

    def messages(self, node: Node) -> Mapping[str, Mapping[str, pb.Message]]:
        """What a proxy should have: type URL -> name -> message."""

    def gone(self, node: Node) -> None:
        """A proxy has gone, with what was made for it."""


#: Something that runs as long as a control plane does, and ends when it is cancelled.
Companion = Callable[["ControlPlane"], Coroutine[Any, Any, None]]


class StartError(Exception):
    """The control plane cannot start. Each argument is one line for the user."""


class ControlPlane:
    """One control plane: opened by its constructor, alive during :meth:`run`."""

    def __init__(
        self,
        settings: Settings,
        mesh: Mesh,
        clock: Callable[[], datetime] = _now,
        companions: Sequence[Companion] = (),
        authenticator: Authenticator | None = None,
    ) -> None:
        """Open keys, tokens, configuration and sockets. Raises :class:`StartError`."""
        self._settings = settings
        self._mesh = mesh
        self._clock = clock
        self._companions = companions
        self._ready = self._synced = False
        self.registry = CollectorRegistry()
        self.rotation, self._supplied = _authority(settings, clock)
        judges = [one for one in (_tokens(settings), authenticator) if one is not None]
        judge = AnyOf(judges) if judges else None
        errors = mesh.load()
        if errors:
            raise StartError(*errors)
        process.register(self.registry)
        metrics = XdsMetrics(self.registry)
        cache = ResourceCache()
        bundle = TrustBundle(self.rotation, cache)

        def snapshot(node: Node, previous: Snapshot | None) -> Snapshot:
            if not self._synced:
                raise NotYetError("the mesh's configuration was not seen whole yet")
            try:
                return cache.snapshot(bundle.beside(mesh.messages(node)), previous)
            except ProxyError as error:
                raise NodeRefusedError(str(error)) from error

        # A mesh in a cluster has waited for what belongs together; an editor's files come when they come.
        self.fleet = Fleet(snapshot, metrics, gone=mesh.gone, quiet=0.0 if settings.kubernetes else 0.1)
        self.collector = Collector(self.fleet, mesh)
        self.rotation.subscribers = lambda: bundle.asking(self.fleet)
        self.rotation.on_change(self.fleet.changed)
        RotationMetrics(self.registry, self.rotation)
        methods = DiscoveryService(self.fleet, None if settings.insecure_xds else judge, metrics).methods()
        if judge is not None:
            signing = IdentityMetrics(self.registry)
            methods |= CertificateService(self.rotation, judge, signing, clock).methods()
        self._xds = GrpcServer(methods)
        self._certificate = None if settings.insecure_xds else self._server_certificate()
        self._xds_socket = _bound(settings.listen, "--listen")
        self._admin_socket = None
        self.admission: AdmissionDoor | None = None
        try:
            self._admin_socket = _bound(settings.admin, "--admin") if settings.admin else None
            self._operator_socket = _operators_door(settings.state)
            if settings.webhook is not None:
                self.admission = self._admission_door(settings.webhook)
        except StartError:
            for one in filter(None, (self._xds_socket, self._admin_socket)):
                one.close()
            raise
        self.xds_address = _address(self._xds_socket)
        self.admin_address = _address(self._admin_socket) if self._admin_socket else None

    async def run(self, stop: asyncio.Event, started: Callable[[], None]) -> None:
        """Serve until ``stop`` is set; ``started`` is called once everything serves."""
        admin: AdminServer | None = None
        of_operator = AdminServer(door.application(self.rotation), self._operator_socket)
        try:
            await of_operator.start()
            if self._admin_socket is not None:
                pages = application(self.fleet, self.registry, self._mesh, self.collector, lambda: self._ready)
                admin = AdminServer(pages, self._admin_socket)
                await admin.start()
            await self._xds.start(self._xds_socket, self._certificate.context if self._certificate else None)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._mesh.watch(self.fleet.changed)),
                    group.create_task(self.fleet.run()),
                ]
                if self._certificate is not None:
                    tasks.append(group.create_task(self._renew(self._certificate)))
                if self._supplied is not None:
                    tasks.append(group.create_task(self._supplied.follow()))
                # Certificates are signed meanwhile; a proxy that asks for more would be told that there is nothing.
                self._synced = await _before(stop, self._mesh.synced())
                if self._synced:
                    # What is there by now mostly stays: the garbage collector need not go through it again and again,
                    # nor after each few hundred objects of the many that a round over the proxies makes.
                    gc.collect()
                    gc.freeze()
                    gc.set_threshold(20_000, 10, 10)
                    if self.admission is not None:
                        await self.admission.start(lambda: self._ready)
                        tasks.append(group.create_task(self.admission.renew()))
                    tasks += [group.create_task(one(self)) for one in self._companions]
                    self._ready = True
                    started()
                    await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            self._ready = False
            await self.collector.stop()
            await self._xds.stop()
            if self.admission is not None:
                await self.admission.stop()
            await of_operator.stop()
            (self._settings.state / operator.SOCKET).unlink(missing_ok=True)
            if admin is not None:
                await admin.stop()

    def _server_certificate(self) -> ServerCertificate:
        hosts = self._hosts(self._settings.listen)
        return ServerCertificate(self.rotation, hosts, self._settings.state, self._clock())

    def _hosts(self, listening: Address) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._settings.server_names, listening.host, "localhost", "127.0.0.1")))

    def _admission_door(self, address: Address) -> AdmissionDoor:
        settings = self._settings
        sock = _bound(address, "--webhook")
        try:
            return AdmissionDoor(
                sock,
                settings.injection,
                self._mesh.about,
                self._mesh.ours,
                self.rotation,
                self._hosts(address),
                settings.state,
                self.registry,
                self._clock,
            )
        except ConfigError as error:
            sock.close()
            raise StartError(*map(str, error.diagnostics)) from error

    async def _renew(self, certificate: ServerCertificate) -> None:
        changed = asyncio.Event()
        self.rotation.on_change(changed.set)
        while True:
            wait = max((certificate.renew_at - self._clock()).total_seconds(), 1.0)
            if await changed_within(changed, wait) and not certificate.is_due:
                continue
            certificate.renew(self._clock())
            log.info("server certificate renewed", extra={"next": certificate.renew_at.isoformat()})


async def _before(stop: asyncio.Event, waited: Coroutine[Any, Any, None]) -> bool:
    """Whether something came before ``stop`` was set."""
    came, stopped = asyncio.ensure_future(waited), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((came, stopped), return_when=asyncio.FIRST_COMPLETED)
        return came.done() and not stop.is_set()
    finally:
        came.cancel()
        stopped.cancel()


def run(
    settings: Settings,
    mesh: Mesh,
    *,
    companions: Sequence[Companion] = (),
    authenticator: Authenticator | None = None,
    log_level: str = "info",
) -> int:
    """Run a control plane until SIGTERM or SIGINT; the process's exit code."""
    logs.configure(log_level)
    try:
        uvloop.run(_run(settings, mesh, companions, authenticator))
    except StartError as error:
        for line in error.args:
            print(line, file=sys.stderr)  # noqa: T201 - for the person who started it
        return 1
    return 0


async def _run(
    settings: Settings, mesh: Mesh, companions: Sequence[Companion], authenticator: Authenticator | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    plane = ControlPlane(settings, mesh, companions=companions, authenticator=authenticator)

    def started() -> None:
        addresses = {"xds": str(plane.xds_address)}
        if plane.admin_address is not None:
            addresses["admin"] = str(plane.admin_address)
        if plane.admission is not None:
            addresses["webhook"] = str(plane.admission.address)
        if settings.ports_file is not None:
            private_files.write(settings.ports_file, json.dumps(addresses).encode() + b"\n", mode=0o644)
        shown = " ".join(f"{name}={address}" for name, address in addresses.items())
        print(f"pymesh control ready {shown}", flush=True)  # noqa: T201 - the one line that says so

    await plane.run(stop, started)
    log.info("stopped")


def _authority(settings: Settings, clock: Callable[[], datetime]) -> tuple[Rotation, SuppliedAuthority | None]:
    policy = LifetimePolicy(settings.certificate_lifetime, settings.longest_certificate_lifetime)
    folder, now = settings.state / "ca", clock()
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        Identity(settings.trust_domain, "default", "default")
        supplied = None if settings.authority is None else storage.open_supplied(settings.authority, now, policy)
        trust = storage.open_or_create(folder, settings.trust_domain, now, policy, supplied)
        ledger = Ledger.open(folder, now)
    except (AuthorityError, ValueError, private_files.InsecureFileError) as error:
        raise StartError(f"certificate authority: {error}") from error
    except OSError as error:
        raise StartError(f"state folder {settings.state}: {error.strerror}") from error

    def make() -> CertificateAuthority:
        return self_signed(settings.trust_domain, clock(), policy)

    keep = partial(storage.keep, folder)
    if settings.authority is None:
        return Rotation(trust, ledger, keep, clock, make), None
    rotation = Rotation(trust, ledger, keep, clock, None)
    return rotation, SuppliedAuthority(rotation, settings.authority, policy, clock)


def _tokens(settings: Settings) -> TokenFile | None:
    if settings.tokens is None:
        return None
    try:
        return TokenFile(settings.tokens, settings.trust_domain)
    except TokenFileError as error:
        raise StartError(f"token file: {error}") from error


def _bound(address: Address, option: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=512)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StartError(f"cannot listen on {address}: {reason}; hint: choose another {option} HOST:PORT") from error


def _operators_door(state: Path) -> socket.socket:
    try:
        return operator.listening(state)
    except OSError as error:
        raise StartError(str(error)) from error


def _address(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(host, port)
