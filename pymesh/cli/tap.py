"""`pymesh tap`: requests as they end, live, from the proxies themselves."""

from __future__ import annotations

import json
import sys
import time

import click

from pymesh.cli.problem import give_up
from pymesh.operate import show, tap
from pymesh.operate.mesh import ControlPlane, PageError
from pymesh.operate.tap import Tap, Target, Wanted


@click.command("tap")
@click.argument("proxies", nargs=-1, metavar="[PROXY]...")
@click.option("--method", default="", metavar="NAME", help="Only requests of this method.")
@click.option("--path", default="", metavar="PREFIX", help="Only where the path begins so.")
@click.option("--authority", default="", metavar="TEXT", help="Only where this is part of the authority.")
@click.option("--status", default="", metavar="CODE", help="Only answers of this status, or class: 503, 5xx.")
@click.option("--direction", type=click.Choice(["in", "out"]), help="Only what comes to the workload, or goes out.")
@click.option("--failed", is_flag=True, help="Only what failed: no answer, 5xx, a gRPC error, or a response flag.")
@click.option("-c", "--count", type=click.IntRange(1), metavar="N", help="End after so many requests.")
@click.option("-t", "--time", "seconds", type=click.FloatRange(0.1), metavar="SECONDS", help="End after so long.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@show.ADMIN
def command(
    proxies: tuple[str, ...],
    method: str,
    path: str,
    authority: str,
    status: str,
    direction: str | None,
    failed: bool,
    count: int | None,
    seconds: float | None,
    output: str,
    admin: str | None,
) -> None:
    """Show requests as they end, live.

    \b
    pymesh tap                              of every proxy that is connected
    pymesh tap web reviews-v1               of these
    pymesh tap 127.0.0.1:15000              of the proxy with these admin pages
    pymesh tap web --failed                 only what went wrong
    pymesh tap ingress --path /api -c 10    ten requests, and out
    pymesh tap web -o json | jq .path       a line of JSON each, for scripts

    A request is shown by each proxy that it passes, when it ends. Proxies write these lines only while somebody looks,
    and never wait for who reads: what comes too fast is left out, and counted."""
    if status and not (status.isdecimal() and len(status) == 3) and not (status[:1].isdecimal() and status[1:] == "xx"):
        give_up(f"--status {status!r} is no status\nhint: 503, or 5xx for all that begin so")
    wanted = Wanted(method, path, authority, status, direction or "", failed)
    ends = None if seconds is None else time.monotonic() + seconds
    shown = 0
    try:
        with Tap(_targets(proxies, admin)) as opened:
            while True:
                patience = None if ends is None else max(ends - time.monotonic(), 0.001)
                found = opened.read(patience)
                if found is None or (ends is not None and time.monotonic() > ends):
                    break
                target, line = found
                if "missed" in line or line in wanted:
                    _show(target, line, output)
                    shown += "missed" not in line
                if shown == count:
                    break
    except PageError as error:
        give_up(str(error))
    except KeyboardInterrupt:
        sys.exit(0)


def _targets(named: tuple[str, ...], admin: str | None) -> list[Target]:
    """Those that were named, or all of ours. Raises :class:`PageError`."""
    plane = ControlPlane(admin)
    found = []
    for one in named:
        host, _, port = one.rpartition(":")
        if host and port.isdecimal():
            found.append(Target(one, one))
            continue
        known = plane.find(one)
        if not known.is_ours:
            raise PageError(f"{known.title} is not pymesh's own proxy, and has no page {tap.PATH}")
        found.append(Target(known.title, known.own_admin()))
    if not named:
        found = [Target(one.title, one.admin) for one in plane.proxies if one.is_ours and one.admin is not None]
        if not found:
            raise PageError(
                f"no proxy of ours is connected to {plane.address}\nhint: name one by its admin address, HOST:PORT"
            )
    return found


def _show(target: Target, line: tap.Line, output: str) -> None:
    if output == "json":
        click.echo(json.dumps({"proxy": target.title, **line}))
        return
    text = tap.text(line, target.title)
    is_bad = "missed" in line or tap.has_failed(line)
    click.echo(click.style(text, fg="red") if is_bad and show.is_coloured() else text)
