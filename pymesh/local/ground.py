"""What a mesh with capture may stand on here, found out by trying: namespaces, or explicit ports.

Inside, the mesh is the first process of a process namespace, so that nothing of it can outlive it; outside, a process
waits, lets people in (`door`), and passes on that it is to end.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pymesh.capture import system
from pymesh.capture.system import CaptureError
from pymesh.local.door import Outside
from pymesh.local.errors import LocalMeshError

Kind = Literal["root", "user", "ports"]

_NAMESPACES = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
#: Everything that a mesh's network needs of the kernel.
_TRIAL = """
set -e
ip link add mesh0 type bridge
ip link add mesh1 type veth peer name mesh2
ip link set mesh1 master mesh0
mount --bind /etc/resolv.conf /etc/resolv.conf
nft add table inet pymesh
nft add chain inet pymesh output '{ type nat hook output priority -100; }'
nft add rule inet pymesh output meta mark 1338 accept
nft add rule inet pymesh output meta l4proto tcp redirect to :15001
"""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Ground:
    """What was found."""

    kind: Kind
    #: For people.
    told: str

    def prefix(self) -> list[str]:
        """What the command of the mesh begins with."""
        user = ["--user", "--map-root-user"] if self.kind == "user" else []
        return [system.program("unshare"), *user, *_NAMESPACES]


_ROOT = Ground("root", "capture: each workload in a network namespace of its own, as root")
_USER = Ground("user", "capture: each workload in a network namespace of its own, in a user namespace, without root")


def choose() -> Ground:
    """The best that works here. Raises :class:`LocalMeshError` when a program is missing, which can be mended."""
    try:
        for name in ("unshare", "ip", "nft", "mount"):
            system.program(name)
    except CaptureError as error:
        raise LocalMeshError(f"--capture: {error}") from error
    refusals = []
    for ground in (_ROOT, _USER) if os.geteuid() == 0 else (_USER,):
        refusal = _refusal(ground)
        if not refusal:
            return ground
        refusals.append(refusal)
    return Ground("ports", f"capture: not possible here ({'; '.join(refusals)}); explicit ports instead")


def _refusal(ground: Ground) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    argv = [*ground.prefix(), "sh", "-c", _TRIAL]
    done = subprocess.run(
        argv, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False, start_new_session=True
    )
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[0] if lines else f"{argv[0]} ended with {done.returncode}"


def run(ground: Ground, argv: Sequence[str]) -> tuple[int, signal.Signals | None]:
    """Run a command on it, to which the door's descriptor is added; its exit code, and what we were told to end by."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    received: list[signal.Signals] = []

    def end(number: int, _: object) -> None:
        # The process inside sees the door close, also before it has learnt to hear signals, and if we are killed.
        if not received:
            received.append(signal.Signals(number))
            ours.shutdown(socket.SHUT_RDWR)

    for number in _ENDING:
        signal.signal(number, end)
    with ours:
        with theirs:
            child = subprocess.Popen(
                # A terminal's Ctrl-C reaches us alone.
                [*ground.prefix(), *argv, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        threading.Thread(target=Outside(ours).serve, daemon=True).start()
        code = child.wait()
    return code if code >= 0 else 1, received[0] if received else None
