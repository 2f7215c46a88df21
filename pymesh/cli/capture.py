"""`pymesh capture`: lead a workload's connections through its proxy, without a change in the workload."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import click

from pymesh.capture import rules, system
from pymesh.capture.rules import Network, Options
from pymesh.cli.problem import give_up

Listed = Callable[[click.Context, click.Parameter, str], tuple[Any, ...] | None]


def _list(kind: str, one: Callable[[str], int | Network]) -> Listed:
    """Reads values with commas between them; `*` is all there are, and None."""

    def read(context: click.Context, parameter: click.Parameter, text: str) -> tuple[Any, ...] | None:
        parts = [part.strip() for part in text.split(",")]
        try:
            return None if text == "*" else tuple(one(part) for part in parts if part)
        except ValueError as error:
            raise click.BadParameter(f"{error}: not {kind}", context, parameter) from None

    return read


def _number(most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) > most:
            raise ValueError(repr(text))
        return int(text)

    return read


_PORT = click.IntRange(1, 65535)
_PORTS = _list("PORT,PORT...", _number(65535))
_IDS = _list("NUMBER,NUMBER...", _number(2**32 - 2))
_CIDRS = _list("CIDR,CIDR...", lambda text: ipaddress.ip_network(text, strict=False))


@click.group("capture")
def command() -> None:
    """Lead a workload's connections through its proxy.

    By nftables rules in this network namespace, for IPv4 and IPv6."""


@command.command("on")
@click.option("--mode", type=click.Choice(["REDIRECT", "TPROXY"]), default="REDIRECT", show_default=True,
              help="How inbound connections are taken.")  # fmt: skip
@click.option("--outbound-port", type=_PORT, default=15001, show_default=True, help="The proxy's, for what goes out.")
@click.option("--inbound-port", type=_PORT, default=15006, show_default=True, help="The proxy's, for what comes in.")
@click.option(
    "--include-inbound-ports",
    metavar="PORTS",
    callback=_PORTS,
    default="*",
    show_default=True,
    help="Taken when they come in.",
)
@click.option(
    "--exclude-inbound-ports", metavar="PORTS", callback=_PORTS, default="", help="Not taken; 22 and 15008 never are."
)
@click.option(
    "--include-outbound-cidrs",
    metavar="CIDRS",
    callback=_CIDRS,
    default="*",
    show_default=True,
    help="Taken when going there.",
)
@click.option("--exclude-outbound-cidrs", metavar="CIDRS", callback=_CIDRS, default="", help="Not taken.")
@click.option(
    "--include-outbound-ports",
    metavar="PORTS",
    callback=_PORTS,
    default="",
    help="Taken also outside of the included CIDRs.",
)
@click.option("--exclude-outbound-ports", metavar="PORTS", callback=_PORTS, default="", help="Not taken.")
@click.option(
    "--proxy-uid",
    "uids",
    metavar="IDS",
    callback=_IDS,
    default="1337",
    show_default=True,
    help="Whose connections are left alone.",
)
@click.option(
    "--proxy-gid", "gids", metavar="IDS", callback=_IDS, default="1337", show_default=True, help="The same by group."
)
@click.option(
    "--proxy-mark", "marks", metavar="IDS", callback=_IDS, default="", help="The same by the mark of its connections."
)
@click.option("--ipv6/--no-ipv6", default=True, show_default=True, help="Take IPv6 as well.")
@click.option("--dry-run", is_flag=True, help="Print the ruleset and change nothing.")
def on(uids: tuple[int, ...], gids: tuple[int, ...], marks: tuple[int, ...], dry_run: bool, **chosen: Any) -> None:
    """Take connections from now on; what was taken otherwise before is replaced at once."""
    everything = {
        name
        for name, value in {**chosen, "proxy_uid": uids, "proxy_gid": gids, "proxy_mark": marks}.items()
        if value is None
    }
    for name in sorted(everything - {"include_inbound_ports", "include_outbound_cidrs"}):
        give_up(f"--{name.replace('_', '-')} cannot be *\nhint: name each, or leave the option out")
    try:
        options = Options(proxy_uids=uids, proxy_gids=gids, proxy_marks=marks, **chosen)
        if dry_run:
            click.echo(rules.ruleset(options), nl=False)
        else:
            system.turn_on(options)
    except (rules.OptionsError, system.CaptureError) as error:
        give_up(str(error))


@command.command("off")
def off() -> None:
    """Take nothing any more."""
    try:
        system.turn_off()
    except system.CaptureError as error:
        give_up(str(error))


@command.command("show")
def show() -> None:
    """Show the rules that are in force."""
    try:
        found = system.what_is_there()
    except system.CaptureError as error:
        give_up(str(error))
    click.echo(found or "capture is off\n", nl=False)
