"""An nftables ruleset for a plain host: whose connections reach the ports of its workload.

Beside the capture rules (`pymesh.capture.rules`): those lead connections to the proxy first, so that ports are the ones
that the client asked for (`ct original proto-dst`). Ports that are not the workload's are nobody's business here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pymesh.control.network import layer4
from pymesh.control.network.layer4 import ANYONE, THE_MESH, Network, Opening, Origin, network
from pymesh.control.resources.kubernetes import is_ip
from pymesh.control.resources.workloads import WorkloadEntry
from pymesh.control.store.store import Store

TABLE: Final = "inet pymesh_policy"


class ExportError(ValueError):
    """Nothing can be written for the host: why."""


def export(
    store: Store,
    entries: Sequence[WorkloadEntry],
    workload: WorkloadEntry,
    known_only: bool,
    edge: Sequence[Network] = (),
) -> str:
    """The ruleset. Identities come from the addresses of ``entries`` if these are all there are (``known_only``), else
    from the networks ``edge``, or from anywhere."""
    ports = frozenset(workload.spec.ports.values())
    if not ports:
        raise ExportError(f"{workload.title} has no ports; hint: name them in spec.ports")
    labels = {**workload.metadata.labels, **workload.spec.labels}
    closed = [one for one in layer4.policies(store, workload.namespace) if one.selector.items() <= labels.items()]
    places = _Places(entries, known_only, edge)
    lines: list[str] = []
    for number in sorted(ports):
        strict = store.peers.mode(workload.namespace, labels, number) == "STRICT"
        openings: list[Opening] = (
            [opening for one in closed for opening in one.openings] if closed else [Opening(ANYONE)]
        )
        for opening in openings:
            if opening.ports and number not in opening.ports:
                continue
            lines += places.lines(number, THE_MESH if strict and opening.origin == ANYONE else opening.origin)
    governed = ", ".join(map(str, sorted(ports)))
    rules = "".join(f"\t\t{line}\n" for line in dict.fromkeys(lines))
    return (
        f"add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n"
        "\tchain input {\n"
        "\t\ttype filter hook input priority filter; policy accept;\n"
        "\t\tct state established,related accept\n"
        '\t\tiif "lo" accept\n'
        f"\t\tmeta l4proto tcp ct original proto-dst {{ {governed} }} jump workload\n"
        "\t}\n\tchain workload {\n"
        f"{rules}"
        "\t\tmeta l4proto tcp reject with tcp reset\n\t}\n}\n"
    )


class _Places:
    """Where workloads are."""

    def __init__(self, entries: Sequence[WorkloadEntry], known_only: bool, edge: Sequence[Network]) -> None:
        self._entries = entries
        self._known_only = known_only
        self._edge = edge

    def lines(self, port: int, origin: Origin) -> Iterable[str]:
        """Rules that let in who comes from there."""
        # A rule that names a port has to name the protocol.
        to = f"meta l4proto tcp ct original proto-dst {port} accept"
        without = [f"{_family(one)} saddr != {one}" for one in origin.without]
        networks = self._networks(origin)
        if networks is None:
            # A rule that names an address of one version says nothing about the other.
            versions = {one.version for one in origin.without}
            if len(versions) == 1:
                other = "ipv6" if versions == {4} else "ipv4"
                return [f"meta nfproto {other} {to}", " ".join([*without, to])]
            if versions:
                by_family = {4: "ip saddr", 6: "ip6 saddr"}
                return [
                    " ".join([*(line for line in without if line.startswith(f"{start} ")), to])
                    for start in by_family.values()
                ]
            return [to]
        return [
            " ".join([f"{_family(one)} saddr {one}", *(w for w in without if w.startswith(f"{_family(one)} ")), to])
            for one in networks
        ]

    def _networks(self, origin: Origin) -> list[Network] | None:
        """None: anywhere."""
        if origin.namespaces is None:
            return list(origin.networks) if origin.networks is not None else None
        if not self._known_only:
            return list(self._edge) or None
        found = []
        for one in self._entries:
            if origin.namespaces and one.namespace not in origin.namespaces:
                continue
            if not is_ip(one.spec.address):
                return None
            found.append(network(one.spec.address))
        return list(dict.fromkeys(found))


def _family(one: Network) -> str:
    return "ip" if one.version == 4 else "ip6"
