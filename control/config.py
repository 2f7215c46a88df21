"""The control plane's settings, as one value that is checked before anything starts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

DEFAULT_TRUST_DOMAIN = "cluster.local"
#: Half of it must leave time to fail and ask again.
SHORTEST_CERTIFICATE_LIFETIME = timedelta(seconds=10)


class SettingsError(Exception):
    """The settings cannot work: what and how to fix it."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host or an IP address, and a port; to listen on port 0 lets the system choose one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """``127.0.0.1:15012`` or ``[::1]:15012``."""
        host, separator, port = text.rpartition(":")
        if not separator or not host or not port.isdecimal() or int(port) > 65535:
            raise SettingsError(f"{text!r} is not HOST:PORT; hint: 127.0.0.1:0 lets the system choose a port")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``pymesh control`` was asked to do."""

    #: Where the control plane keeps its own root.
    state: Path
    #: Folders (or files) with the mesh's resources.
    config: tuple[Path, ...] = ()
    #: The resources are in a Kubernetes API server instead.
    kubernetes: bool = False
    listen: Address = Address("127.0.0.1", 15012)
    admin: Address | None = Address("127.0.0.1", 15014)
    #: Hashes of the workloads' tokens; without it nobody can authenticate.
    tokens: Path | None = None
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    #: An operator's authority (Istio's plug-in CA files) instead of our own root.
    authority: Path | None = None
    certificate_lifetime: timedelta = timedelta(hours=24)
    longest_certificate_lifetime: timedelta = timedelta(days=90)
    #: More names for the server certificate; the listening address and localhost are always in it.
    server_names: tuple[str, ...] = ()
    #: Serve xDS in cleartext to everybody who can connect. For tests, on loopback.
    insecure_xds: bool = False
    #: Where an API server asks about objects before it takes them (`pymesh.control.admission`).
    webhook: Address | None = None
    #: The settings of the sidecars that pods get.
    injection: Path | None = None
    #: Where to write the addresses as JSON once everything serves.
    ports_file: Path | None = None

    def __post_init__(self) -> None:
        if not self.config and not self.kubernetes:
            raise SettingsError("no configuration; hint: --config DIR, or --kubernetes")
        if self.config and self.kubernetes:
            raise SettingsError("--config and --kubernetes exclude each other; hint: put the resources in one of them")
        if self.insecure_xds and not self.listen.loopback:
            raise SettingsError(f"--insecure-xds works on loopback only, not on {self.listen}")
        if not self.insecure_xds and self.tokens is None and not self.kubernetes:
            raise SettingsError("no proxy could authenticate; hint: --tokens FILE (or --insecure-xds for tests)")
        if self.injection is not None and self.webhook is None:
            raise SettingsError("injection settings are for the webhook; hint: --webhook 0.0.0.0:15017")
        if self.admin is not None and not self.admin.loopback:
            raise SettingsError(f"the admin address {self.admin} is not on loopback; hint: 127.0.0.1:{self.admin.port}")
        if self.certificate_lifetime < SHORTEST_CERTIFICATE_LIFETIME:
            raise SettingsError("certificates must live for at least 10s; hint: --certificate-lifetime 1h")
        if self.certificate_lifetime > self.longest_certificate_lifetime:
            raise SettingsError("the certificate lifetime is above the longest allowed one")
