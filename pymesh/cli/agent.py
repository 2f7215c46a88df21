"""`pymesh agent`: secrets for a real Envoy, which cannot make its own key."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pymesh.cli.problem import give_up
from pymesh.control.config import Address, SettingsError
from pymesh.control.identity import agent

PATH = click.Path(path_type=Path)


@click.command("agent")
@click.option("--control", required=True, metavar="HOST:PORT", help="The control plane.")
@click.option("--token", required=True, type=PATH, metavar="FILE", help="The workload's join token (mode 0600).")
@click.option("--socket", required=True, type=PATH, metavar="PATH", help="Unix socket to serve SDS on.")
@click.option(
    "--root",
    type=PATH,
    metavar="FILE",
    help="Roots to trust at the start; without it cleartext, on loopback only.",
)
@click.option("--node", default="", metavar="ID", help="Node id of the proxy beside it.")
@click.option("--log-level", default="info", show_default=True)
def command(control: str, token: Path, socket: Path, root: Path | None, node: str, log_level: str) -> None:
    """Serve a workload's key and certificate to a real Envoy."""
    try:
        settings = agent.AgentSettings(Address.parse(control), token, socket, root, node)
    except SettingsError as error:
        give_up(str(error))
    sys.exit(agent.run(settings, log_level=log_level))
