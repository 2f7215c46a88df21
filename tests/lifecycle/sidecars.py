"""Two sidecars that speak mutual TLS, with a control plane of their own that can be killed and started again.

The load asks the client's sidecar at one port; what it asks for travels to the server's sidecar and on to the origins.
Either sidecar can be a real Envoy, with `pymesh agent` beside it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pymesh.control.identity import private_files
from pymesh.local import bootstrap
from pymesh.local.bootstrap import ControlAddress
from pymesh.local.meshfile import App
from pymesh.local.plan import Workload
from tests.lifecycle.load import Origins
from tests.lifecycle.replica import PATIENCE
from tests.proxy.running import command, eventually, pymesh
from tests.tools.ports import free_ports
from tests.tools.processes import Running, running

Json = dict[str, Any]
NAMESPACE = "load"
#: Who has an identity beside the two sidecars.
PROBER = "prober"


def _resource(kind: str, name: str, spec: Json, version: str = "networking.istio.io/v1") -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


@dataclass
class Sidecars:
    """See the module. Everything is started by `start` and ends with the stack."""

    folder: Path
    behind: Origins
    stack: ExitStack
    envoy: Sequence[str] = ()
    #: Of certificates.
    lifetime: str = "24h"
    outbound: int = 0
    inbound: tuple[int, ...] = ()
    admins: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    control: Running | None = None

    def start(self) -> None:
        """The control plane, then both sidecars; returns when both serve."""
        self.folder.mkdir()
        ports = free_ports(8)
        self.outbound, *inbound = ports[:4]
        self.inbound = tuple(inbound)
        self.admins = {"client": ports[4], "server": ports[5]}
        self.control_port, self.control_admin = ports[6:]
        self._publish(self._resources())
        self.tokens = {name: f"token-of-the-{name}" for name in ("client", "server", PROBER)}
        hashed = {
            hashlib.sha256(token.encode()).hexdigest(): {"namespace": NAMESPACE, "serviceAccount": name}
            for name, token in self.tokens.items()
        }
        private_files.write(self.folder / "tokens.json", json.dumps(hashed).encode())
        self.start_control()
        for name in ("client", "server"):
            self._start_proxy(name)

    @property
    def state(self) -> Path:
        """The control plane's state folder."""
        return self.folder / "state"

    @property
    def root(self) -> Path:
        """The roots that are trusted now."""
        return self.state / "ca" / "root-cert.pem"

    def start_control(self) -> None:
        """Start the control plane, or start it again."""
        words = [*pymesh(), "control", *self._source(), "--state", str(self.state)]
        words += ["--listen", f"127.0.0.1:{self.control_port}", "--admin", f"127.0.0.1:{self.control_admin}"]
        words += ["--tokens", str(self.folder / "tokens.json"), "--certificate-lifetime", self.lifetime]
        words += ["--access-log", "OFF"]
        self.control = self.stack.enter_context(
            running(words, title="control", ports=[self.control_port], timeout=PATIENCE)
        )

    def _publish(self, resources: Sequence[Json]) -> None:
        """Put the mesh where the control plane finds it."""
        (self.folder / "mesh").mkdir()
        text = "---\n".join(yaml.safe_dump(one) for one in resources)
        (self.folder / "mesh" / "mesh.yaml").write_text(text)

    def _source(self) -> list[str]:
        """What tells the control plane where that is."""
        return ["--config", str(self.folder / "mesh")]

    def kill_control(self) -> None:
        """As a crash ends it: whatever was being written stays as it is."""
        assert self.control is not None
        self.control.child.kill()
        self.control.wait(PATIENCE)

    def ca(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`pymesh ca`."""
        argv = [*pymesh(), "ca", *words, "--state", str(self.state)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def phase(self, name: str) -> None:
        """Begin a phase as soon as no proxy is left behind."""
        said: list[str] = []

        def begun() -> bool:
            done = self.ca(name)
            said.append(done.stderr)
            return done.returncode == 0

        assert eventually(begun, PATIENCE), said[-1]

    def _workload(self, name: str) -> Workload:
        app = App(name=name, command=("none",), ports={"http": "PORT"})
        return Workload(name, NAMESPACE, name, {"app": name}, self.admins[name], app)

    def _start_proxy(self, name: str) -> None:
        workload, control = self._workload(name), ControlAddress(self.control_port, self.root)
        token = self.folder / f"{name}.token"
        private_files.write(token, self.tokens[name].encode())
        file, ready = self.folder / f"{name}.json", [self.outbound] if name == "client" else list(self.inbound)
        if name in self.envoy:
            socket = self.folder / f"{name}.sock"
            words = [*pymesh(), "agent", "--control", f"127.0.0.1:{self.control_port}", "--token", str(token)]
            words += ["--socket", str(socket), "--root", str(self.root), "--node", workload.node_id]
            agent = self.stack.enter_context(running(words, title="agent"))
            assert eventually(lambda: "agent ready" in agent.output(), PATIENCE), agent.tail()
            made, kind = bootstrap.for_envoy(workload, control, self.tokens[name], socket), "envoy"
        else:
            made, kind = bootstrap.for_pymesh(workload, control, token), "pymesh"
        file.write_text(json.dumps(made))
        self.stack.enter_context(running(command(kind, file, 2), title=name, ports=ready, timeout=PATIENCE))

    def _resources(self) -> list[Json]:
        names = ("http", "grpc", "websocket")
        protocols = dict(zip(names, ("HTTP", "GRPC", "HTTP"), strict=True))
        apps = dict(zip(names, (self.behind.http, self.behind.grpc, self.behind.websocket), strict=True))
        ports = [
            {"name": f"grpc-{name}" if name == "grpc" else f"http-{name}", "port": 80 + at}
            for at, name in enumerate(names)
        ]
        titles = {name: str(port["name"]) for name, port in zip(names, ports, strict=True)}
        listening = dict(zip(names, self.inbound, strict=True))
        entry = {
            "address": "127.0.0.1",
            "ports": {titles[name]: listening[name] for name in names},
            "labels": {"app": "server", "security.istio.io/tlsMode": "istio"},
            "serviceAccount": "server",
        }
        ingress = [
            {
                "port": {"number": listening[name], "protocol": protocols[name], "name": titles[name]},
                "bind": "127.0.0.1",
                "defaultEndpoint": f"127.0.0.1:{apps[name]}",
            }
            for name in names
        ]
        host = f"server.{NAMESPACE}.svc.cluster.local"
        egress = [
            {
                "port": {"number": self.outbound, "protocol": "HTTP", "name": titles["http"]},
                "bind": "127.0.0.1",
                "captureMode": "NONE",
                "hosts": [f"{NAMESPACE}/{host}"],
            }
        ]
        to = {name: [{"destination": {"host": host, "port": {"number": 80 + at}}}] for at, name in enumerate(names)}
        rules = [
            {"match": [{"uri": {"prefix": "/load.Echo/"}}], "route": to["grpc"]},
            {"match": [{"uri": {"prefix": "/websocket"}}], "route": to["websocket"]},
            {"route": to["http"]},
        ]
        select = {name: {"workloadSelector": {"labels": {"app": name}}} for name in ("client", "server")}
        return [
            _resource("Service", "server", {"selector": {"app": "server"}, "ports": ports}, "v1"),
            _resource("WorkloadEntry", "server", entry),
            _resource("Sidecar", "server", {**select["server"], "ingress": ingress}),
            _resource("Sidecar", "client", {**select["client"], "egress": egress}),
            _resource("VirtualService", "server", {"hosts": [host], "http": rules}),
        ]
