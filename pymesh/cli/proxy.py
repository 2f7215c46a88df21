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
def command(config: Path, concurrency: int | None, mode: str, drain: float) -> None:
    """Run the data plane on an Envoy v3 bootstrap file."""
    try:
        if mode == "validate":
            problems = _bridge.validate(config)
            if problems:
                give_up("\n".join(problems))
            click.echo(f"configuration '{config}' OK")
        else:
            _bridge.run(config, concurrency=concurrency, drain_seconds=drain)
    except _bridge.ProxyError as error:
        give_up(str(error))
