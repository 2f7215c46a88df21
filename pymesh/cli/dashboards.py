"""`pymesh dashboards`: Grafana's dashboards and Prometheus's alert rules, out of the package."""

from __future__ import annotations

from pathlib import Path

import click

from pymesh import dashboards
from pymesh.cli.problem import give_up
from pymesh.control.resources.diagnostics import did_you_mean


@click.command("dashboards")
@click.argument("target", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", required=False)
@click.option("--show", metavar="NAME", help="Print this file instead.")
def command(target: Path | None, show: str | None) -> None:
    """Write out Grafana's dashboards and Prometheus's alert rules.

    \b
    pymesh dashboards                        what there is
    pymesh dashboards DIR                    all of it, into DIR
    pymesh dashboards --show service.json    one of them, on standard output

    The dashboards are for Grafana's import, or a folder that it is provisioned with; alerts.yaml is for `rule_files` of
    Prometheus. What is there under these names is replaced."""
    if show is not None:
        try:
            click.echo(dashboards.text(show), nl=False)
        except FileNotFoundError:
            known = dashboards.names()
            give_up(f"there is no {show!r}\nhint: {did_you_mean(show, known, otherwise=', '.join(known))}")
        return
    if target is None:
        click.echo("\n".join(dashboards.names()))
        return
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in dashboards.names():
            (target / name).write_text(dashboards.text(name), encoding="utf-8")
            click.echo(str(target / name))
    except OSError as error:
        give_up(f"{error.filename or target}: {error.strerror}")
