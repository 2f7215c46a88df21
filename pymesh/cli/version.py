"""`pymesh version`."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from pymesh import _bridge


@click.command("version")
def command() -> None:
    """Show the versions of both planes."""
    click.echo(f"pymesh {metadata.version('pymesh-proxy')}")
    try:
        click.echo(f"data plane {_bridge.version()}")
    except _bridge.ProxyError as error:
        click.echo(f"data plane: {error}")
    click.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
