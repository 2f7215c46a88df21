"""Proxies for the load, that start, end and take over from each other."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lifecycle.load import Origins
from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import eventually, pymesh
from tests.tools.processes import Running, running

#: What `make lifecycle` raises to 50.
ROUNDS = int(os.environ.get("PYMESH_LIFECYCLE_ROUNDS", "5"))
PATIENCE = 60.0


def listener(port: int, name: str = "load", routes: Sequence[Json] = (), **manager: Any) -> Json:
    """The listener that the load asks at, with routes before its own."""
    routes = [
        *routes,
        to_cluster("grpc", "/load.Echo/", timeout="0s"),
        to_cluster("websocket", "/websocket", timeout="0s"),
        to_cluster("http"),
    ]
    upgrades = [{"upgrade_type": "websocket"}]
    return http_listener(port, [virtual_host("load", routes)], name=name, upgrade_configs=upgrades, **manager)


def clusters(origins: Origins, http: Sequence[int] = ()) -> list[Json]:
    """Where its routes lead; `http` takes the place of the HTTP origin."""
    return [
        cluster("grpc", [origins.grpc], http2=True),
        cluster("websocket", [origins.websocket]),
        cluster("http", http or [origins.http]),
    ]


def config(origins: Origins, port: int, admin: int) -> Json:
    """All of a proxy's configuration."""
    return bootstrap([listener(port)], clusters(origins), admin)


@contextmanager
def replica(folder: Path, made: Json, *options: str, ready: Sequence[int] = ()) -> Iterator[Running]:
    """A proxy on a bootstrap; the block starts when it listens on `ready`."""
    file = folder / f"bootstrap-{len(list(folder.iterdir()))}.json"
    file.write_text(json.dumps(made))
    with running([*pymesh(), "proxy", "-c", str(file), *options], title="pymesh", ports=ready, timeout=PATIENCE) as one:
        yield one


class Succession:
    """The command line of processes that take over from each other, and which of them serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket, self.pid_file = folder / "upgrade.sock", folder / "proxy.pid"

    @contextmanager
    def start(self, made: Json, *options: str) -> Iterator[Running]:
        """The next process; see `serves`."""
        of_all = ["--upgrade-socket", str(self.socket), "--pid-file", str(self.pid_file)]
        with replica(self.folder, made, *of_all, *options) as one:
            yield one

    def serves(self, one: Running) -> bool:
        """Whether this process comes to serve."""
        return eventually(lambda: not one.alive() or self.pid() == one.pid, PATIENCE) and one.alive()

    def pid(self) -> int | None:
        """The process that serves."""
        try:
            return int(self.pid_file.read_text())
        except FileNotFoundError:
            return None


def ends(one: Running, timeout: float = PATIENCE) -> None:
    """The process comes to an end, and a good one."""
    assert one.wait(timeout) == 0, one.tail()


def terminate(one: Running) -> None:
    """SIGTERM, and the end."""
    one.signal(signal.SIGTERM)
    ends(one)
