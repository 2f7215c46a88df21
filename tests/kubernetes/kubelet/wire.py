"""What goes over the node's cables from pod to pod: every TCP segment, as its own bytes."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.kubernetes.kubelet.network import ADDRESS, NETWORK, Network

_ALL_PROTOCOLS, _IPV4, _TCP = 3, 0x0800, 6
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
#: The kernel's room for segments that were not read yet.
_ROOM = 64 * 1024 * 1024
_LARGEST = 256 * 1024


@dataclass
class Wire:
    """Segments between pods: sender, receiver, payload."""

    segments: list[tuple[str, str, bytes]] = field(default_factory=list)

    def with_text(self, *texts: bytes) -> list[tuple[str, str, bytes]]:
        """Those that show one of these texts to whoever looks."""
        return [one for one in self.segments if any(text in one[2] for text in texts)]

    def between(self, senders: set[str], receivers: set[str]) -> list[tuple[str, str, bytes]]:
        """Those of some pods to others."""
        return [one for one in self.segments if one[0] in senders and one[1] in receivers]


@contextmanager
def watched(network: Network) -> Iterator[Wire]:
    """Everything that pods say to each other during the block."""
    wire = Wire()
    tap = network.node.call(_tap)
    over = threading.Event()
    reader = threading.Thread(target=_read, args=(tap, wire, over), daemon=True)
    reader.start()
    try:
        yield wire
    finally:
        over.set()
        reader.join()
        _, lost = struct.unpack("II", tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        tap.close()
    # What was not seen cannot be judged.
    assert not lost, f"{lost} segments went by unseen"


def _tap() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    made.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), _ROOM)
    made.settimeout(0.2)
    return made


def _read(tap: socket.socket, wire: Wire, over: threading.Event) -> None:
    while True:
        try:
            frame, (_, protocol, *_) = tap.recvfrom(_LARGEST)
        except TimeoutError:
            # What had come before the end has been read.
            if over.is_set():
                return
            continue
        found = _payload(frame[14:]) if protocol == _IPV4 else None
        if found is not None:
            wire.segments.append(found)


def _payload(packet: bytes) -> tuple[str, str, bytes] | None:
    """Of a packet from one pod to another, if it is TCP and says something."""
    header = (packet[0] & 0x0F) * 4
    if packet[9] != _TCP or len(packet) < header + 20:
        return None
    sender, receiver = (ipaddress.IPv4Address(packet[at : at + 4]) for at in (12, 16))
    if not all(one in NETWORK and str(one) != ADDRESS for one in (sender, receiver)):
        return None
    length = int.from_bytes(packet[2:4], "big") or len(packet)
    payload = packet[header + (packet[header + 12] >> 4) * 4 : length]
    return (str(sender), str(receiver), payload) if payload else None
