"""`pymesh proxy`: the data plane."""

from __future__ import annotations

from pathlib import Path

import click

from pymesh import _bridge
from pymesh.cli.problem import give_up


@click.command("proxy")
@click.option(
    "-c",
    "--config-path",
    "config",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Envoy v3 bootstrap, YAML or JSON.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="N",
    help="Worker threads; as many as the process may use cores by default.",
)
@click.option(
    "--mode",
    type=click.Choice(["serve", "validate"]),
    default="serve",
    show_default=True,
    help="`validate` only checks the file.",
)
@click.option(
    "--drain-time-s",
    "drain",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that connections get to end after SIGTERM.",
)
@click.option(
    "--drain-accept-time-s",
    "drain_accept",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Seconds of the drain in which new connections are still taken: until every client knows other addresses.",
)
@click.option(
    "--upgrade-socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Unix socket of the binary upgrade: take over from the process that serves there, then serve there.",
)
@click.option(
    "--parent-shutdown-time-s",
    "parent_shutdown",
    type=click.FloatRange(min=0),
    default=900.0,
    show_default=True,
    help="Seconds that connections of the process taken over from get to end.",
)
@click.option(
    "--pid-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Holds the id of the process that serves.",
)
def command(
    config: Path,
    concurrency: int | None,
    mode: str,
    drain: float,
    drain_accept: float,
    upgrade_socket: Path | None,
    parent_shutdown: float,
    pid_file: Path | None,
) -> None:
    """Run the data plane on an Envoy v3 bootstrap file."""
    try:
        if mode == "validate":
            problems = _bridge.validate(config)
            if problems:
                give_up("\n".join(problems))
            click.echo(f"configuration '{config}' OK")
        else:
            lifecycle = _bridge.Lifecycle(drain, drain_accept, parent_shutdown, upgrade_socket, pid_file)
            _bridge.run(config, concurrency=concurrency, lifecycle=lifecycle)
    except _bridge.ProxyError as error:
        give_up(str(error))
