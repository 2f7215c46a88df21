"""The network of the node: each pod on a cable of its own, the node as the router between them, and no way out.

    the node   10.244.0.1            DNS at port 53; the API server behind the `kubernetes` Service
    a pod      10.244.x.y            its route leads to the node at 169.254.1.1, wherever it wants to go

Virtual IPs of Services are translated on the node, as kube-proxy does it. The host and its network are not touched:
what the two have to do with each other goes over :class:`Forward`, two sockets with a thread in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pymesh.capture import dns
from pymesh.capture.namespace import NetworkNamespace
from tests.tools.peers import peer

T = TypeVar("T")

NETWORK = ipaddress.IPv4Network("10.244.0.0/16")
#: Virtual IPs of Services, as the API server has it by its options.
SERVICES = ipaddress.IPv4Network("10.96.0.0/16")
#: The node's own.
ADDRESS = str(NETWORK[1])
_NEXT_HOP = "169.254.1.1"


@dataclass(frozen=True)
class VirtualPort:
    """A port of a Service, and who serves it."""

    address: str
    port: int
    endpoints: tuple[tuple[str, int], ...]


class Network:
    """See the module. It is gone when it is closed and nothing runs in it any more."""

    def __init__(self) -> None:
        self.node = NetworkNamespace()
        self._count = 1
        self._forwards: list[Forward] = []
        self._ports: tuple[VirtualPort, ...] = ()
        #: Host name -> addresses.
        self.names: Mapping[str, Sequence[str]] = {}
        self.node.call(_furnish_node)
        self._dns = _Dns(self)

    def pod(self) -> tuple[NetworkNamespace, str]:
        """A namespace for one more pod, and its address."""
        self._count += 1
        address = str(NETWORK[self._count])
        made = NetworkNamespace()
        cable = f"pod{self._count}"

        def on_node() -> None:
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", made.path)
            _ip("address", "add", f"{_NEXT_HOP}/32", "dev", cable)
            _ip("link", "set", cable, "up")
            _ip("route", "add", f"{address}/32", "dev", cable)

        def in_pod() -> None:
            _ip("link", "set", "lo", "up")
            _ip("address", "add", f"{address}/32", "dev", "eth0")
            _ip("link", "set", "eth0", "up")
            _ip("route", "add", _NEXT_HOP, "dev", "eth0", "scope", "link")
            _ip("route", "add", "default", "via", _NEXT_HOP)
            # As in containers: applications that listen on 80 need no rights for it.
            Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")

        self.node.call(on_node)
        made.call(in_pod)
        return made, address

    def from_node(self, address: str, port: int, timeout: float) -> socket.socket:
        """A connection from the node, as kubelets and clients outside of the mesh have it. Raises OSError."""
        return self.node.call(lambda: socket.create_connection((address, port), timeout))

    def route(self, ports: Iterable[VirtualPort]) -> None:
        """Have virtual IPs lead to their endpoints."""
        wanted = tuple(sorted(ports, key=lambda one: (one.address, one.port)))
        if wanted != self._ports:
            text = _rules(wanted)
            self.node.call(lambda: _run(peer("nft"), "-f", "-", text=text))
            self._ports = wanted

    def to_host(self, port: int, host: tuple[str, int]) -> None:
        """Connections to a port of the node lead to an address of the host."""
        listener = self.node.call(lambda: socket.create_server((ADDRESS, port)))
        self._forwards.append(Forward(listener, lambda: socket.create_connection(host, 10)))

    def from_host(self, connect: Callable[[], socket.socket]) -> int:
        """A port of the host's loopback; ``connect`` makes the other half of each connection."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._forwards.append(Forward(listener, connect))
        port: int = listener.getsockname()[1]
        return port

    def close(self) -> None:
        """Let it go."""
        for one in self._forwards:
            one.close()
        self._dns.close()
        self.node.close()


class Forward:
    """Passes bytes on, between a listening socket and whatever `connect` gives."""

    def __init__(self, listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
        self._listener = listener
        self._connect = connect
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(here,), daemon=True).start()

    def _join(self, here: socket.socket) -> None:
        try:
            there = self._connect()
        except OSError:
            here.close()
            return
        there.settimeout(None)
        back = threading.Thread(target=_pump, args=(there, here), daemon=True)
        back.start()
        _pump(here, there)
        back.join()
        here.close()
        there.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class _Dns:
    """The cluster's DNS, in a thread on the node."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        if not self._ready.wait(30):
            raise RuntimeError("the cluster's DNS did not start")

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._network.node.enter()
        server = dns.Server(lambda: self._network.names)
        self._loop.run_until_complete(server.start(ADDRESS))
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


def _furnish_node() -> None:
    _ip("link", "set", "lo", "up")
    _ip("address", "add", f"{ADDRESS}/32", "dev", "lo")
    # Virtual IPs are translated before anything gets there.
    _ip("link", "add", "nowhere", "type", "veth", "peer", "name", "nowhere-end")
    for end in ("nowhere", "nowhere-end"):
        _ip("link", "set", end, "up")
    _ip("route", "add", str(SERVICES), "dev", "nowhere")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _rules(ports: Sequence[VirtualPort]) -> str:
    chains, choices = [], []
    for number, one in enumerate(ports):
        names = [f"to-{number}-{n}" for n in range(len(one.endpoints))]
        for name, (address, port) in zip(names, one.endpoints, strict=True):
            chains.append(f"\tchain {name} {{ meta l4proto tcp dnat to {address}:{port}; }}\n")
        if names:
            listed = ", ".join(f"{n} : goto {name}" for n, name in enumerate(names))
            match = f"ip daddr {one.address} tcp dport {one.port}"
            choices.append(f"\t\t{match} numgen random mod {len(names)} vmap {{ {listed} }}\n")
    nowhere = f"ip daddr {SERVICES} reject with icmp type host-unreachable"
    return f"""add table ip services
delete table ip services
table ip services {{
{"".join(chains)}
\tchain services {{
{"".join(choices)}
\t}}
\tchain prerouting {{ type nat hook prerouting priority -100; jump services; }}
\tchain output {{ type nat hook output priority -100; jump services; }}
\t# who has no endpoint is nowhere
\tchain forward {{ type filter hook forward priority 0; {nowhere}; }}
\tchain local {{ type filter hook output priority 0; {nowhere}; }}
}}
"""


def _ip(*arguments: str) -> None:
    _run(peer("ip"), *arguments)


def _run(*argv: str, text: str | None = None) -> None:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr}{text or ''}")
