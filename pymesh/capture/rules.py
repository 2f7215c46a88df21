"""The nftables ruleset that captures a workload's traffic, as text: a pure function of the options.

The rules say what Istio's iptables say, in one table of its own (`inet pymesh`) for both versions of IP:

* what the workload sends goes to the proxy's outbound port, what comes for it to the inbound port;
* the proxy is known by its user or group, and is left alone, with one exception: when it calls its own workload by
  the workload's address, it goes through the inbound port, as everybody else does;
* the proxy says "to the application now" by the source address 127.0.0.6 or ::6, so that this last leg is not taken
  for such a call;
* the workload's traffic with itself on loopback stays there.

So nothing meets the proxy twice for the same reason. TPROXY, as with Istio, is about inbound connections: they arrive
without address translation. Outbound ones are redirected in both modes. Where the proxy does not run, captured
connections fail in both modes; they never reach the application around it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Mode = Literal["REDIRECT", "TPROXY"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

TABLE = "inet pymesh"
#: Istio's: the mark of packets that TPROXY has taken, and the routing table that delivers them here.
MARK = 1337
ROUTING_TABLE = 133
#: Where connections from the proxy to its own application come from.
PASSTHROUGH_V4 = "127.0.0.6"
PASSTHROUGH_V6 = "::6"
#: Never captured inbound: SSH, as with Istio, so that a mistake can be mended; and HBONE, which is the proxy's own.
OPEN_PORTS = (22, 15008)


class OptionsError(ValueError):
    """Options that cannot be meant."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is captured. `None` for an include list means everything; exclusions win over inclusions."""

    mode: Mode = "REDIRECT"
    outbound_port: int = 15001
    inbound_port: int = 15006
    include_inbound_ports: Sequence[int] | None = None
    exclude_inbound_ports: Sequence[int] = ()
    include_outbound_cidrs: Sequence[Network] | None = None
    exclude_outbound_cidrs: Sequence[Network] = ()
    #: Captured wherever they go, also outside of the included CIDRs.
    include_outbound_ports: Sequence[int] = ()
    exclude_outbound_ports: Sequence[int] = ()
    proxy_uids: Sequence[int] = (1337,)
    proxy_gids: Sequence[int] = (1337,)
    #: `SO_MARK` of the proxy's connections, where it has no user of its own.
    proxy_marks: Sequence[int] = ()
    ipv6: bool = True

    def __post_init__(self) -> None:
        if not self.proxy_uids and not self.proxy_gids and not self.proxy_marks:
            raise OptionsError("without a user, group or mark of the proxy its own connections would come back to it")
        if self.outbound_port == self.inbound_port:
            raise OptionsError(f"the outbound and the inbound port cannot both be {self.inbound_port}")


def ruleset(options: Options) -> str:
    """The table as `nft -f` reads it. It replaces an older one in the same transaction."""
    chains = [_output(options), _proxy(options), _inbound(options)]
    chains.append(_tproxy(options) if options.mode == "TPROXY" else _prerouting(options))
    body = "\n".join(chain.text() for chain in chains)
    return f"{removal()}table {TABLE} {{\n{body}}}\n"


def removal() -> str:
    """Removes the table, whether it is there or not."""
    return f"add table {TABLE}\ndelete table {TABLE}\n"


@dataclass(frozen=True, slots=True)
class _Chain:
    name: str
    hook: str
    lines: list[str]

    def text(self) -> str:
        hook = [self.hook] if self.hook else []
        return f"\tchain {self.name} {{\n" + "".join(f"\t\t{line}\n" for line in [*hook, *self.lines]) + "\t}\n"


def _output(options: Options) -> _Chain:
    lines = [
        *_only_tcp(options),
        *_ports(options.exclude_outbound_ports, "accept"),
        *_owners(options, "goto proxy"),
        "# the workload and itself",
        'oifname "lo" accept',
        *_destinations(options.exclude_outbound_cidrs, "accept"),
    ]
    capture = _redirect(options.outbound_port)
    if options.include_outbound_cidrs is None:
        lines.append(capture)
    else:
        lines += _ports(options.include_outbound_ports, capture)
        lines += _destinations(options.include_outbound_cidrs, capture)
    return _Chain("output", "type nat hook output priority -100; policy accept;", lines)


def _proxy(options: Options) -> _Chain:
    lines = [
        'oifname != "lo" accept',
        "# to the application now",
        f"ip saddr {PASSTHROUGH_V4} accept",
        f"ip6 saddr {PASSTHROUGH_V6} accept",
        "ip daddr 127.0.0.0/8 accept",
        "ip6 daddr ::1 accept",
        "# to the workload's own address: as everybody else does",
        "jump inbound",
    ]
    return _Chain("proxy", "", lines)


def _inbound(options: Options) -> _Chain:
    lines = [*_left_alone(options, "return"), *_included(options, _redirect(options.inbound_port))]
    return _Chain("inbound", "", lines)


def _prerouting(options: Options) -> _Chain:
    lines = [*_only_tcp(options), "jump inbound"]
    return _Chain("prerouting", "type nat hook prerouting priority -100; policy accept;", lines)


def _tproxy(options: Options) -> _Chain:
    # Packets pass here one by one, and those of connections on loopback too.
    opening = "tcp flags & (fin | syn | rst | ack) == syn"
    take = f"{opening} meta mark set {MARK} tproxy to :{options.inbound_port} accept"
    lines = [
        'iifname "lo" accept',
        *_only_tcp(options),
        *_left_alone(options, "accept"),
        "# what was taken before",
        f"socket transparent 1 meta mark set {MARK} accept",
        *_included(options, take),
        "# nobody listens there: not around the proxy",
        *_included(options, f"{opening} drop"),
    ]
    return _Chain("prerouting", "type filter hook prerouting priority -150; policy accept;", lines)


def _redirect(port: int) -> str:
    # A rule that names a port has to name the protocol, whatever went before it.
    return f"meta l4proto tcp redirect to :{port}"


def _only_tcp(options: Options) -> list[str]:
    return ["meta l4proto != tcp accept", *([] if options.ipv6 else ["meta nfproto ipv6 accept"])]


def _left_alone(options: Options, verdict: str) -> list[str]:
    return _ports([*OPEN_PORTS, *options.exclude_inbound_ports], verdict)


def _included(options: Options, verdict: str) -> list[str]:
    if options.include_inbound_ports is None:
        return [verdict]
    return _ports(options.include_inbound_ports, verdict)


def _owners(options: Options, verdict: str) -> list[str]:
    kinds = (("skuid", options.proxy_uids), ("skgid", options.proxy_gids))
    found = [f"meta {kind} {_set(numbers)} {verdict}" for kind, numbers in kinds if numbers]
    return [*found, *([f"meta mark {_set(options.proxy_marks)} {verdict}"] if options.proxy_marks else [])]


def _ports(numbers: Iterable[int], verdict: str) -> list[str]:
    listed = list(numbers)
    return [f"tcp dport {_set(listed)} {verdict}"] if listed else []


def _destinations(networks: Sequence[Network], verdict: str) -> list[str]:
    # Overlapping elements are an error to nft.
    v4 = ipaddress.collapse_addresses(one for one in networks if isinstance(one, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(one for one in networks if isinstance(one, ipaddress.IPv6Network))
    written = (("ip", [str(one) for one in v4]), ("ip6", [str(one) for one in v6]))
    return [f"{family} daddr {{ {', '.join(texts)} }} {verdict}" for family, texts in written if texts]


def _set(numbers: Iterable[int]) -> str:
    return f"{{ {', '.join(str(number) for number in sorted(set(numbers)))} }}"
