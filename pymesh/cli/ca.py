"""`pymesh ca`: the control plane's authority, and the three phases of a root rotation."""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from pymesh.cli.problem import give_up
from pymesh.control.identity import operator
from pymesh.control.resources.decode import duration

STATE = click.option(
    "--state",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The state folder of the running control plane.",
)
FORCE = click.option("--force", is_flag=True, help="Also if proxies are left behind.")
#: How soon a phase that was refused is tried again.
_AGAIN_SECONDS = 0.5


@click.group("ca")
def command() -> None:
    """Show and rotate the certificate authority.

    A rotation has three phases: `prepare` makes a new root that everybody trusts beside the old one, `activate` lets it
    sign, `revoke` ends the trust in the old one. Each is refused while it would leave a proxy behind.
    """


@command.command("show")
@STATE
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def show(state: Path, as_json: bool) -> None:
    """Show the phase, the roots, and who holds certificates of which."""
    _print(_asked(state), as_json=as_json)


@command.command("prepare")
@STATE
def prepare(state: Path) -> None:
    """Phase 1: make a new root that is trusted beside the old one."""
    _print(_asked(state, "prepare"))


@command.command("activate")
@STATE
@FORCE
def activate(state: Path, force: bool) -> None:
    """Phase 2: let the new root sign. Proxies renew their certificates within seconds."""
    _print(_asked(state, "activate", force=force))


@command.command("revoke")
@STATE
@FORCE
@click.option("--authority", default="", metavar="ID", help="Which; needed for one that does not sign yet.")
def revoke(state: Path, force: bool, authority: str) -> None:
    """Phase 3: trust the old root no longer. Within seconds nobody gets in with it."""
    _print(_asked(state, "revoke", force=force, authority=authority))


@command.command("rotate")
@STATE
@click.option("--timeout", default="5m", show_default=True, metavar="TIME", help="For each phase's proxies.")
def rotate(state: Path, timeout: str) -> None:
    """All three phases, each as soon as every proxy has taken the one before it."""
    patience = duration(timeout)
    if patience is None:
        give_up(f"--timeout {timeout!r} is not a duration; hint: write 5m or 30s")
    phase = _asked(state)["phase"]
    if phase == "steady":
        _asked(state, "prepare")
        click.echo("prepared: the new root is being given out")
    if phase in ("steady", "prepared"):
        _when_ready(state, "activate", patience)
        click.echo("activated: the new root signs, certificates are being renewed")
    _when_ready(state, "revoke", patience)
    click.echo("revoked: the old root is not trusted any more")


def _when_ready(state: Path, phase: str, patience: timedelta) -> None:
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        try:
            operator.ask(state, phase)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                give_up(f"{phase}: no control plane answers in {state}: {error}")
        except operator.RefusedError as refused:
            if time.monotonic() > deadline:
                give_up(f"{phase}: {refused}")
        time.sleep(_AGAIN_SECONDS)


def _asked(state: Path, phase: str = "", *, force: bool = False, authority: str = "") -> dict[str, Any]:
    try:
        return operator.ask(state, phase, force=force, authority=authority)
    except operator.RefusedError as refused:
        give_up(str(refused))
    except OSError as error:
        give_up(f"no control plane answers in {state}: {error}; hint: --state is that of `pymesh control`")


def _print(status: dict[str, Any], *, as_json: bool = False) -> None:
    if as_json:
        json.dump(status, sys.stdout, indent=2)
        click.echo()
        return
    click.echo(f"phase      {status['phase']}" + ("  (an operator's authority)" if status["supplied"] else ""))
    for one in status["authorities"]:
        role = "signs" if one["signs"] else "to come" if status["phase"] == "prepared" else "to go"
        click.echo(f"authority  {one['id']}  {role:8}  until {one['until']}  {one['subject']}")
    for one in status["roots"]:
        click.echo(f"root       {one['id']}  {one['certificates']:>4} certificates  until {one['until']}")
    following = status.get("next")
    if following and following["waitsFor"]:
        click.echo(f"{following['command']} waits for")
        for name in following["waitsFor"]:
            click.echo(f"  {name}")
    elif following:
        click.echo(f"next       pymesh ca {following['command']}")
