"""The shop as `pymesh up` runs it, with traffic, for as long as a block lasts; and what an operator asks of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymesh.local import check
from pymesh.operate import mesh as pages
from tests.e2e.test_shop import PYMESH, SHOP, run
from tests.proxy.running import eventually
from tests.tools.peers import peer


@dataclass(frozen=True)
class Shop:
    """A running mesh: its folder, the control plane's admin address and each proxy's, the gateway's port."""

    folder: Path
    admin: str
    proxies: dict[str, str]
    gateway: int
    #: In place of the user's runtime directory.
    runtime: Path

    def untold(self, *words: str) -> str:
        """The output of a command that is not told which control plane is meant."""
        done = run(*words, XDG_RUNTIME_DIR=str(self.runtime), NO_COLOR="1")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pymesh(self, *words: str, code: int = 0) -> str:
        """The output of a command."""
        done = run(*words, PYMESH_ADMIN=self.admin, NO_COLOR="1")
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def json(self, *words: str) -> Any:
        """What a command tells machines."""
        return json.loads(self.pymesh(*words, "-o", "json"))

    def page(self, path: str, proxy: str = "") -> str:
        """An admin page of the control plane, or of a proxy (NAME.NAMESPACE)."""
        return pages.page(self.proxies[proxy] if proxy else self.admin, path).decode()

    def edit(self, name: str, change: Callable[[str], str]) -> Path:
        """Change a file of its configuration."""
        (file,) = (self.folder / "config").rglob(name)
        file.write_text(change(file.read_text()))
        return file

    def state(self, proxy: str, kind: str) -> str:
        """How far a proxy is with a type, as `pymesh proxy-status` says."""
        return str(self.json("proxy-status", proxy)["types"][kind]["state"])


@contextmanager
def running_shop(folder: Path, mesh: Path = SHOP, *, words: Sequence[str] = ()) -> Iterator[Shop]:
    """`pymesh up` on a mesh file; its traffic runs all the while."""
    output = folder / "output"
    command = [*PYMESH, "up", str(mesh), "--port", "0", "--keep", str(folder / "run"), *words]
    # `--envoy` looks for the program where a user has it.
    path = os.pathsep.join((str(Path(peer("envoy")).parent), os.environ["PATH"]))
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    env = {**os.environ, "COLUMNS": "400", "PATH": path, "XDG_RUNTIME_DIR": str(runtime)}
    with output.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, cwd="/", env=env)
    try:
        assert eventually(lambda: "logs: " in output.read_text(), 120), output.read_text()
        told = output.read_text()
        control = re.search(r"control plane: http://(\S+)/debug", told)
        gateway = re.search(r"gateway \S+: http://127\.0\.0\.1:(\d+)/", told)
        assert control is not None
        assert gateway is not None
        # A sidecar is told as its workload's proxy; both are of one namespace.
        found = re.findall(r"^(\S+?)(?:\.proxy)?: admin http://(\S+)/$", told, re.MULTILINE)
        proxies = {f"{name}.shop": address for name, address in found}
        yield Shop(folder / "run", control[1], proxies, int(gateway[1]), runtime)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert check.leftovers(folder / "run") == []
