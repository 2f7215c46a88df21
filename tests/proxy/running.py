"""Start a proxy on a bootstrap and look at it from outside."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.proxy.bootstrap import Json
from tests.tools.peers import peer
from tests.tools.processes import Running, running

Start = Callable[[Json], AbstractContextManager["Proxy"]]


@dataclass(frozen=True)
class Proxy:
    """A proxy that is ready; `kind` is `pymesh` or `envoy`."""

    kind: str
    process: Running
    ports: list[int]
    admin_port: int

    @property
    def port(self) -> int:
        """The first listener's port."""
        return self.ports[0]

    def admin(self, path: str) -> str:
        """The body of an admin page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as answer:
            body: bytes = answer.read()
        return body.decode()

    def stats(self) -> dict[str, int]:
        """Every counter and gauge of `/stats`."""
        pairs = (line.rsplit(": ", 1) for line in self.admin("/stats").splitlines() if ": " in line)
        return {name: int(value) for name, value in pairs if value.isdigit()}

    def active(self) -> dict[str, int]:
        """The connections and requests that are open now, downstream and upstream; those at zero are left out."""
        kinds = ("downstream_cx_active", "downstream_rq_active", "upstream_cx_active", "upstream_rq_active")
        return {
            name: value
            for name, value in self.stats().items()
            if name.endswith(kinds) and value and not name.startswith(("http.admin.", "listener.admin."))
        }

    def resident_kib(self) -> int:
        """Resident memory of the process, in KiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError(f"{self.kind} has ended:\n{self.process.tail()}")


def command(kind: str, file: Path, concurrency: int = 1) -> list[str]:
    """The command line that runs `file`."""
    shared = ["-c", str(file), "--concurrency", str(concurrency)]
    if kind == "envoy":
        # Hot restart claims a shared memory segment by number, which runs side by side would fight over.
        quiet = ["--disable-hot-restart", "--log-level", "warning"]
        # Access logs are written as soon as ours are, not after ten seconds.
        return [peer("envoy"), *shared, *quiet, "--file-flush-interval-msec", "100"]
    # What a test leaves open is not worth a whole drain.
    return [*pymesh(), "proxy", *shared, "--drain-time-s", "1"]


def pymesh() -> list[str]:
    """The installed command: the one on PATH, else the module of this interpreter."""
    found = shutil.which("pymesh")
    return [found] if found else [sys.executable, "-m", "pymesh"]


@contextmanager
def proxy(kind: str, config: Json, concurrency: int = 1, prefix: Sequence[str] = ()) -> Iterator[Proxy]:
    """Run `kind` on the bootstrap; `prefix` is put before the command (`taskset` in benchmarks)."""
    ports = [_port(listener) for listener in config["static_resources"]["listeners"]]
    admin_port = _port(config["admin"])
    with tempfile.TemporaryDirectory(prefix="bootstrap-") as folder:
        file = Path(folder) / "bootstrap.json"
        file.write_text(json.dumps(config, indent=2))
        argv = [*prefix, *command(kind, file, concurrency)]
        with running(argv, title=kind, ports=[*ports, admin_port]) as process:
            started = Proxy(kind, process, ports, admin_port)
            _wait_until_ready(started)
            yield started


@contextmanager
def ours(config: Json) -> Iterator[Proxy]:
    """A running pymesh proxy."""
    with proxy("pymesh", config) as started:
        yield started


@contextmanager
def envoy(config: Json) -> Iterator[Proxy]:
    """A running Envoy on the same bootstrap."""
    with proxy("envoy", config) as started:
        yield started


def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    """Whether the condition comes true within `timeout`; no test passes or fails by how long it took."""
    deadline = time.monotonic() + timeout
    pause = 0.005
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)
    return True


def lines_of(log: Path) -> list[str]:
    """The lines of a log so far; the last one may be half written, and does not count then."""
    text = log.read_text() if log.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def _wait_until_ready(started: Proxy) -> None:
    def ready() -> bool:
        try:
            return bool(started.admin("/ready"))
        except urllib.error.URLError:
            return False

    if not eventually(ready):
        raise RuntimeError(f"{started.kind} is not ready:\n{started.process.tail()}")


def _port(holder: Json) -> int:
    port: int = holder["address"]["socket_address"]["port_value"]
    return port
