"""Two network namespaces with a cable between them: a pod, where a workload and its proxy live, and the world.

    pod    10.66.0.2  fd66::2      the application (user 1000) and the proxy (user 1337)
    world  10.66.0.1  fd66::1      servers; also 10.66.7.7, fd66:7::7 and 10.66.8.8, fd66:8::8

Everything in them runs with the right to read what the test may read (a virtual environment below a closed home),
and is gone with them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.tools.peers import peer

APP, PROXY = 1000, 1337
POD = {4: "10.66.0.2", 6: "fd66::2"}
WORLD = {4: "10.66.0.1", 6: "fd66::1"}
#: Two that the world has beside its own, each behind a route.
ANYWHERE = {4: "10.66.7.7", 6: "fd66:7::7"}
ELSEWHERE = {4: "10.66.8.8", 6: "fd66:8::8"}

#: Reads what the server says first, asks, and reads the answer.
_TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 15) as s:
    lines = s.makefile("rwb")
    print(lines.readline().decode().strip())
    lines.write(b"ping\\n")
    lines.flush()
    print(lines.readline().decode().strip())
"""


@dataclass(frozen=True)
class Namespace:
    """A network namespace."""

    name: str

    def argv(self, command: Sequence[str], user: int = 0, caps: Sequence[str] = ()) -> list[str]:
        """The command line that runs `command` in there as that user."""
        inside = [peer("ip"), "netns", "exec", self.name]
        if user:
            kept = ",".join(f"+{cap}" for cap in ("dac_read_search", *caps))
            ids = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
            inside += [peer("setpriv"), *ids, f"--inh-caps={kept}", f"--ambient-caps={kept}"]
        return [*inside, *command]

    def run(self, *command: str, user: int = 0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        done = subprocess.run(self.argv(command, user), capture_output=True, text=True, timeout=120, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def curl(self, url: str, *arguments: str, user: int = APP) -> subprocess.CompletedProcess[str]:
        """An unmodified client; the answer with its headers."""
        return self.run(peer("curl"), "-sS", "-i", "-m", "20", *arguments, url, user=user, check=False)

    def talk(self, address: str, port: int, user: int = APP) -> list[str]:
        """What a server that speaks first says, and its answer to `ping`."""
        return self.run(sys.executable, "-c", _TALK, address, str(port), user=user).stdout.splitlines()

    def listens(self, port: int) -> bool:
        """Whether anything listens there."""
        return bool(self.run(peer("ss"), "-Hltn", f"sport = :{port}").stdout.strip())


@dataclass(frozen=True)
class World:
    """The two of them."""

    pod: Namespace
    world: Namespace


def url(address: str, port: int, path: str = "/") -> str:
    """With brackets where IPv6 needs them."""
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}{path}"


@contextmanager
def namespaces(name: str) -> Iterator[World]:
    """Make both, and remove them in the end."""
    if os.geteuid() != 0:
        raise RuntimeError("these tests make network namespaces: run them as root")
    made = World(Namespace(f"pm{os.getpid()}{name}p"), Namespace(f"pm{os.getpid()}{name}w"))
    ip = peer("ip")

    def outside(*command: str) -> None:
        subprocess.run([ip, *command], check=True, capture_output=True, text=True)

    try:
        for one in (made.pod, made.world):
            outside("netns", "add", one.name)
            one.run(ip, "link", "set", "lo", "up")
        outside("link", "add", "eth0", "netns", made.pod.name, "type", "veth", "peer", "eth0", "netns", made.world.name)
        for one, addresses in ((made.pod, POD), (made.world, WORLD)):
            one.run(ip, "address", "add", f"{addresses[4]}/24", "dev", "eth0")
            one.run(ip, "address", "add", f"{addresses[6]}/64", "dev", "eth0", "nodad")
            one.run(ip, "link", "set", "eth0", "up")
        for more in (ANYWHERE, ELSEWHERE):
            made.world.run(ip, "address", "add", f"{more[4]}/32", "dev", "lo")
            made.world.run(ip, "address", "add", f"{more[6]}/128", "dev", "lo")
        made.pod.run(ip, "route", "add", "default", "via", WORLD[4])
        made.pod.run(ip, "-6", "route", "add", "default", "via", WORLD[6])
        yield made
    finally:
        for one in (made.pod, made.world):
            subprocess.run([ip, "netns", "del", one.name], capture_output=True, check=False)
