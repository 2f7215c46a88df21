"""`pymesh stat`: how much, how well and how fast, for each service, workload or edge of the mesh."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from pymesh.cli.problem import give_up
from pymesh.operate import golden, show
from pymesh.operate.mesh import ControlPlane, PageError

_CLEAR = "\x1b[H\x1b[2J"


@click.command("stat")
@click.argument("what", type=click.Choice(list(golden.KINDS)), default="services")
@click.option("-n", "--namespace", default="", metavar="NAME", help="Only this one.")
@click.option("-w", "--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("-t", "--time", "seconds", type=click.FloatRange(1, 60), default=3.0, show_default=True,
              metavar="SECONDS", help="How long to look before the first table, and between two.")  # fmt: skip
@show.ADMIN
@show.OUTPUT
def command(what: str, namespace: str, watch: bool, seconds: float, admin: str | None, output: show.Format) -> None:
    """Show how much, how well and how fast each service answers, now.

    \b
    pymesh stat                    services: requests a second, success, p50 and p99
    pymesh stat edges -n shop      who calls whom, and whether over mutual TLS
    pymesh stat workloads --watch  by version, again and again
    pymesh stat -o json            for scripts

    The numbers are of the last seconds (at most ten), as the callers' proxies have seen them. Nothing is measured while
    nobody looks."""
    plane = ControlPlane(admin)
    try:
        # The first look opens the eyes: growth is counted from there.
        plane.page("/api/v1/graph")
        while True:
            time.sleep(seconds)
            found = golden.chosen(plane.page("/api/v1/graph"), what, namespace)
            _show(what, found, output, clear=watch and sys.stdout.isatty())
            if not watch:
                return
    except PageError as error:
        give_up(str(error))
    except KeyboardInterrupt:
        sys.exit(0)


def _show(what: str, found: list[dict[str, Any]], output: show.Format, *, clear: bool) -> None:
    text = show.data(found, output) if output in ("json", "yaml") else ""
    if not text:
        text = show.table(golden.headings(what), [golden.row(what, one) for one in found])
    click.echo((_CLEAR if clear else "") + text, nl=False)
