"""The control planes that are measured, each started on the same API server."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cpu import resident_kib, used
from tests.kubernetes.cluster import Cluster
from tests.tools.peers import TOOLS
from tests.tools.ports import free_port
from tests.tools.processes import Running, running


@dataclass(frozen=True)
class Plane:
    """One that runs: where sidecars connect, and its processes."""

    name: str
    address: str
    process: Running
    #: Seconds from its start until it was ready.
    start: float

    def cpu(self) -> float:
        """Seconds of CPU used so far, user and kernel."""
        found = used(self.process.pid)
        return (found.user + found.system) / 1e6

    def memory(self) -> float:
        """Resident MiB."""
        return resident_kib(self.process.pid) / 1024


@contextmanager
def pymesh(cluster: Cluster, folder: Path) -> Iterator[Plane]:
    """Ours."""
    ports = folder / "ports.json"
    argv = [
        sys.executable, "-m", "pymesh", "control", "--kubernetes", "--kubeconfig", str(cluster.kubeconfig),
        "--state", str(folder / "state"), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--insecure-xds",
        "--access-log", "OFF", "--ports-file", str(ports), "--log-level", "warning",
    ]  # fmt: skip
    began = time.monotonic()
    with running(argv, title="pymesh", cwd=folder) as process:
        while not ports.exists():
            _still(process)
        yield Plane("pymesh", json.loads(ports.read_text())["xds"], process, time.monotonic() - began)


@contextmanager
def istiod(cluster: Cluster, folder: Path) -> Iterator[Plane]:
    """Istio's, without what a sidecar other than its own would not understand."""
    grpc, http, monitoring, tls = free_port(), free_port(), free_port(), free_port()
    argv = [
        str(_pilot()), "discovery", "--kubeconfig", str(cluster.kubeconfig),
        "--grpcAddr", f"127.0.0.1:{grpc}", "--httpAddr", f"127.0.0.1:{http}", "--httpsAddr", "",
        "--secureGRPCAddr", f"127.0.0.1:{tls}", "--monitoringAddr", f"127.0.0.1:{monitoring}",
        "--log_output_level", "default:warn",
    ]  # fmt: skip
    env = {
        "PILOT_ENABLE_ALPN_FILTER": "false",
        "PILOT_ENABLE_METADATA_EXCHANGE": "false",
        "PILOT_DISABLE_MX_ALPN": "true",
        "POD_NAMESPACE": "istio-system",
        "POD_NAME": "istiod",
        "ENABLE_CA_SERVER": "false",
        "INJECTION_WEBHOOK_CONFIG_NAME": "",
        "VALIDATION_WEBHOOK_CONFIG_NAME": "",
        "PILOT_MAX_REQUESTS_PER_SECOND": "100000",
    }
    began = time.monotonic()
    with running(argv, title="istiod", ports=[http], timeout=120, cwd=folder, env=env) as process:
        while True:
            _still(process)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{http}/ready", timeout=5):
                    break
            except OSError:
                time.sleep(0.02)
        yield Plane("istiod", f"127.0.0.1:{grpc}", process, time.monotonic() - began)


def _pilot() -> Path:
    """Ten minutes of building that tests do not need: not among their peers."""
    path = TOOLS / "bin" / "pilot-discovery"
    if not path.exists():
        module = "istio.io/istio/pilot/cmd/pilot-discovery@v0.0.0-20260827124520-eed52ebb66ad"
        raise SystemExit(f"{path} is not there\nhint: GOBIN={path.parent} go install {module}")
    return path


PLANES = {"pymesh": pymesh, "istiod": istiod}


def _still(process: Running) -> None:
    if not process.alive():
        raise RuntimeError(f"{process.title} ended:\n{process.tail()}")
    time.sleep(0.01)
