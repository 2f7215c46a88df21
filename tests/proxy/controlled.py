"""Our control plane on a folder of resources, and a proxy of either kind that has everything from it."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.proxy.bootstrap import cluster, dynamic
from tests.proxy.running import Proxy, proxy, pymesh
from tests.tools.ports import free_ports
from tests.tools.processes import running
from tests.tools.serving import accepting


@contextmanager
def controlled(
    kind: str,
    folder: Path,
    node: str,
    labels: Mapping[str, str],
    *,
    concurrency: int = 1,
    prefix: Sequence[str] = (),
) -> Iterator[Proxy]:
    """A proxy configured by the resources in `folder / "mesh"`; `node` is as in `router~127.0.0.1~a.shop~b`.

    `prefix` is put before the proxy's command."""
    control, admin = free_ports(2)
    config = dynamic("DELTA_GRPC", cluster("control", [control], http2=True), admin)
    namespace = node.split("~")[2].rpartition(".")[2]
    config["node"] = {"id": node, "cluster": "test", "metadata": {"NAMESPACE": namespace, "LABELS": dict(labels)}}
    plane = [*pymesh(), "control", "--config", str(folder / "mesh"), "--state", str(folder / f"state-{control}")]
    plane += ["--insecure-xds", "--listen", f"127.0.0.1:{control}", "--admin", "127.0.0.1:0", "--access-log", "OFF"]
    with (
        running(plane, title="control", ports=[control], timeout=120),
        proxy(kind, config, concurrency, prefix) as made,
    ):
        yield made


def write(folder: Path, name: str, text: str) -> None:
    """One resource file of the mesh, as a whole."""
    target = folder / "mesh" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    # A control plane that looks sees the old text or the new.
    beside = folder / f".{name}"
    beside.write_text(text)
    beside.rename(target)


def secret(name: str, namespace: str = "shop", **entries: Path) -> str:
    """A Secret of PEM files; `tls_crt` stands for `tls.crt`."""
    lines = "".join(f"  {key.replace('_', '.')}: {json.dumps(path.read_text())}\n" for key, path in entries.items())
    return (
        f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData:\n{lines}"
    )


@dataclass
class Counted:
    """An HTTP/1.1 server that says who it is, or what it is given to say, and counts connections and requests."""

    name: str
    host: str = "127.0.0.1"
    port: int = 0
    context: ssl.SSLContext | None = None
    body: str = ""
    connections: int = 0
    requests: int = 0

    @contextmanager
    def serving(self) -> Iterator[Counted]:
        """Serve on `port`, or on any if that is 0."""
        with accepting(self._serve, self.host, self.port) as self.port:
            yield self

    def _serve(self, raw: socket.socket) -> None:
        self.connections += 1
        # A socket that is wrapped takes the descriptor along, so that there are two to close.
        end = self.context.wrap_socket(raw, server_side=True) if self.context else raw
        with end, end.makefile("rwb") as lines:
            while head := self._head(lines):  # type: ignore[arg-type]
                self.requests += 1
                host = next((one[5:].strip() for one in head if one.lower().startswith("host:")), "")
                body = (self.body or f"{self.name} {host}\n").encode()
                lines.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                lines.flush()

    @staticmethod
    def _head(lines: Iterator[bytes]) -> list[str]:
        head: list[str] = []
        for line in lines:
            if not line.strip():
                return head
            head.append(line.decode("latin-1"))
        return []
