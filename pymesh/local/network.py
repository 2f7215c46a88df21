"""A network of the mesh's own: each workload in its namespace, with capture, on a bridge where the rest of the mesh is.

    ours          10.244.0.1 on the bridge mesh0: control plane, gateways, DNS
    a workload    10.244.x.y on eth0; who calls anybody is led to the proxy, and so is who calls it

The proxies are known to the rules by a mark, since an ordinary user's namespace has no second user for them. There is
no way out of this network: what is not in the mesh does not exist in it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pymesh.capture import dns, rules, system
from pymesh.capture.namespace import NetworkNamespace
from pymesh.capture.system import CaptureError, run_program
from pymesh.local import http
from pymesh.local.errors import LocalMeshError
from pymesh.local.meshfile import EVERYTHING
from pymesh.local.plan import PROXY_MARK, InboundPort, Workload

NETWORK = ipaddress.IPv4Network("10.244.0.0/16")
#: Ours.
ADDRESS = str(NETWORK[1])
_BRIDGE = "mesh0"
_RESOLVER = Path("/etc/resolv.conf")
_SWITCH = Path("/etc/nsswitch.conf")
#: How soon a new name is known.
_POLL_S = 0.3


@dataclass(slots=True)
class Network:
    """See the module. It is gone with the process that has made it, and with those in it."""

    #: The user and group that applications run as; None: ours.
    user: tuple[int, int] | None = None
    _namespaces: list[NetworkNamespace] = field(default_factory=list)
    _names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    _dns: dns.Server | None = None
    _follower: asyncio.Task[None] | None = None

    def open(self, folder: Path, namespace: str) -> None:
        """Make the bridge, and have names resolved by us. Raises :class:`LocalMeshError`."""
        with _told():
            _ip("link", "set", "lo", "up")
            _ip("link", "add", _BRIDGE, "type", "bridge", "forward_delay", "0")
            _ip("address", "add", f"{ADDRESS}/{NETWORK.prefixlen}", "dev", _BRIDGE)
            _ip("link", "set", _BRIDGE, "up")
            resolver = folder / "resolv.conf"
            search = " ".join(dns.search(namespace))
            resolver.write_text(f"nameserver {ADDRESS}\nsearch {search}\noptions ndots:5\n")
            run_program("mount", "--bind", str(resolver), str(_RESOLVER))
            if _SWITCH.exists():
                # The host's resolver daemon, which some machines ask by a socket, knows nothing of the mesh.
                lines = [one for one in _SWITCH.read_text().splitlines() if not one.startswith("hosts:")]
                switch = folder / "nsswitch.conf"
                switch.write_text("\n".join([*lines, "hosts: files dns", ""]))
                run_program("mount", "--bind", str(switch), str(_SWITCH))

    def join(self, workload: Workload, ports: Mapping[str, int]) -> Workload:
        """The workload in a namespace of its own, a gateway in ours; `ports` are those of the services."""
        if workload.gateway:
            return replace(workload, address=ADDRESS)
        number = len(self._namespaces) + 2
        address = str(NETWORK[number])
        with _told():
            made = NetworkNamespace()
            self._namespaces.append(made)
            veth = f"mesh{number}"
            _ip("link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", made.path)
            _ip("link", "set", veth, "master", _BRIDGE, "up")
            made.call(lambda: _furnish(address, workload.admin_port))
        assert workload.app is not None
        return replace(
            workload,
            address=address,
            network=made,
            inbound=tuple(InboundPort(one.name, one.variable, one.app, one.app) for one in workload.inbound),
            outbound={},
            named={one: ports.get(one, 80) for one in workload.app.calls if one != EVERYTHING},
        )

    def prefix(self) -> list[str]:
        """What an application's command begins with."""
        if self.user is None:
            return []
        # It finds the user that it is used to, and has no rights over its network.
        user, group = self.user
        return [system.program("unshare"), "--user", f"--map-user={user}", f"--map-group={group}"]

    async def resolve(self, control_admin: int) -> None:
        """Answer for the names that the control plane knows, from now on. Raises :class:`LocalMeshError`."""
        await self._read(control_admin)
        self._dns = dns.Server(lambda: self._names)
        try:
            await self._dns.start(ADDRESS)
        except OSError as error:
            raise LocalMeshError(f"DNS at {ADDRESS}: {error.strerror}") from error
        self._follower = asyncio.create_task(self._follow(control_admin))

    def close(self) -> None:
        """Let it go."""
        if self._follower is not None:
            self._follower.cancel()
        if self._dns is not None:
            self._dns.close()
        for one in self._namespaces:
            one.close()
        self._namespaces.clear()

    async def _follow(self, control_admin: int) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            # Without a control plane the names stay what they were.
            with suppress(http.HttpError, ValueError, KeyError):
                await self._read(control_admin)

    async def _read(self, control_admin: int) -> None:
        table = json.loads((await http.get(control_admin, "/debug/ndsz")).body)["table"]
        self._names = {host.lower(): entry["ips"] for host, entry in table.items()}


def _furnish(address: str, admin_port: int) -> None:
    """In the workload's namespace."""
    _ip("link", "set", "lo", "up")
    _ip("address", "add", f"{address}/{NETWORK.prefixlen}", "dev", "eth0")
    _ip("link", "set", "eth0", "up")
    # Virtual addresses are behind it, as far as routing is concerned.
    _ip("route", "add", "default", "via", ADDRESS)
    # As in containers: applications that listen on 80 need no rights for it.
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
    system.turn_on(
        rules.Options(
            proxy_uids=(),
            proxy_gids=(),
            proxy_marks=(PROXY_MARK,),
            exclude_inbound_ports=(admin_port,),
            exclude_outbound_cidrs=(ipaddress.IPv4Network(ADDRESS),),
            ipv6=False,
        )
    )


def _ip(*arguments: str) -> None:
    run_program("ip", *arguments)


@contextmanager
def _told() -> Iterator[None]:
    """What the system refuses, for people."""
    try:
        yield
    except (CaptureError, OSError) as error:
        raise LocalMeshError(f"the mesh's own network: {error}") from error
