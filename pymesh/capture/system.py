"""Puts the rules into the kernel, and takes them out again, by `nft` and `ip`.

Beside the table there are, for TPROXY, a routing rule and a route by which marked packets are delivered here whatever
their address; and on loopback the address ::6, from which the proxy calls its application over IPv6 (127.0.0.6 is
there on any machine).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pymesh.capture.rules import MARK, PASSTHROUGH_V6, ROUTING_TABLE, TABLE, Options, removal, ruleset


class CaptureError(RuntimeError):
    """The system refused; the text says what, and what to do."""


#: Where administrators' programs are; a user's PATH often does not look there.
_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin"
_PACKAGES = {"nft": "nftables", "ip": "iproute2", "unshare": "util-linux", "mount": "mount"}
_RULE = ["fwmark", f"{MARK:#x}", "lookup", str(ROUTING_TABLE)]
_ROUTE = ["local", "default", "dev", "lo", "table", str(ROUTING_TABLE)]
_ADDRESS = [f"{PASSTHROUGH_V6}/128", "dev", "lo"]


def turn_on(options: Options) -> None:
    """Captures from now on. What was captured otherwise before is replaced at one moment."""
    run_program("nft", "list", "tables")  # says what is missing, before anything is changed
    if options.ipv6 and _has_ipv6() and not _has_address():
        run_program("ip", "-6", "address", "add", *_ADDRESS)
    if options.mode == "TPROXY":
        for family in _families(options.ipv6):
            run_program("ip", family, "route", "replace", *_ROUTE)
            if not _routing_rules(family):
                run_program("ip", family, "rule", "add", *_RULE)
    run_program("nft", "-f", "-", text=ruleset(options))
    if options.mode == "REDIRECT":
        _remove_routing()


def turn_off() -> None:
    """Captures nothing any more, and leaves nothing behind."""
    run_program("nft", "-f", "-", text=removal())
    _remove_routing()
    if _has_ipv6() and _has_address():
        run_program("ip", "-6", "address", "del", *_ADDRESS)


def what_is_there() -> str:
    """The table and the routing that are in the kernel now; empty if there are none."""
    parts = []
    if f"table {TABLE}" in run_program("nft", "list", "tables").splitlines():
        parts.append(run_program("nft", "list", "table", *TABLE.split()))
    for family in _families(True):
        parts += [f"ip {family} rule {rule}\n" for rule in _routing_rules(family)]
    return "".join(parts)


def _remove_routing() -> None:
    for family in _families(True):
        # It was added last: where it is not, there is no route either.
        if _routing_rules(family):
            run_program("ip", family, "rule", "del", *_RULE)
            run_program("ip", family, "route", "del", *_ROUTE)


def _routing_rules(family: str) -> list[str]:
    rules = run_program("ip", family, "rule", "show")
    return [line for line in rules.splitlines() if " ".join(_RULE) in line]


def _has_address() -> bool:
    return f" {_ADDRESS[0]} " in run_program("ip", "-6", "address", "show", "dev", "lo")


def _families(ipv6: bool) -> list[str]:
    return ["-4", "-6"] if ipv6 and _has_ipv6() else ["-4"]


def _has_ipv6() -> bool:
    return Path("/proc/net/if_inet6").exists()


def program(name: str) -> str:
    """Where an administrator's program is. Raises :class:`CaptureError`."""
    path = shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)
    if path is None:
        raise CaptureError(
            f"{name} is not installed\nhint: apt-get install {_PACKAGES[name]}, or your system's package"
        )
    return path


def run_program(name: str, *arguments: str, text: str | None = None) -> str:
    """What it says. Raises :class:`CaptureError`."""
    argv = [program(name), *arguments]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout
    problem = f"{' '.join([name, *arguments])}: {done.stderr.strip()}"
    if "Operation not permitted" in done.stderr or "you must be root" in done.stderr:
        problem += "\nhint: run it as root, or with CAP_NET_ADMIN; --dry-run needs neither"
    raise CaptureError(problem)
