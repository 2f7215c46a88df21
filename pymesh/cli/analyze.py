"""`pymesh analyze`: what is wrong, or probably not meant, with resources in files."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pymesh.cli.problem import give_up
from pymesh.control.analysis import CODES
from pymesh.control.config import DEFAULT_TRUST_DOMAIN
from pymesh.control.resources.diagnostics import Diagnostic
from pymesh.control.store.store import MeshOptions
from pymesh.explain.source import SourceError
from pymesh.operate import show
from pymesh.operate.findings import SEVERITIES, findings

#: As with `istioctl analyze`: there are findings of the threshold's severity.
FOUND = 79
_COLOURS = {"error": "red", "warning": "yellow", "info": "blue"}


def _list_codes(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(show.table(("CODE", "NAME"), sorted(CODES.items())), nl=False)
        context.exit(0)


@click.command("analyze")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option("-o", "--output", type=click.Choice(["log", "json", "yaml"]), default="log", show_default=True)
@click.option("--failure-threshold", type=click.Choice(["error", "warning", "info"], case_sensitive=False),
              default="error", show_default=True, help="From which severity on the exit code is 79.")  # fmt: skip
@click.option("-S", "--suppress", multiple=True, metavar="CODE", help="Leave findings of this code out; repeatable.")
@click.option("-L", "--list-codes", is_flag=True, is_eager=True, expose_value=False, callback=_list_codes,
              help="Show the codes and end.")  # fmt: skip
@click.option("--trust-domain", default=DEFAULT_TRUST_DOMAIN, show_default=True)
def command(
    folders: tuple[Path, ...], output: str, failure_threshold: str, suppress: tuple[str, ...], trust_domain: str
) -> None:
    """Find what is wrong, or probably not meant, with resources in files.

    \b
    pymesh analyze examples/shop            a folder with a mesh.yaml, or with resources
    pymesh analyze config/ extra.yaml       several of them together
    pymesh analyze config/ -o json          for scripts
    pymesh analyze config/ -S IST0118       without findings of a code

    Each finding has Istio's code, its place (file:line:column) and a remedy. With errors the exit code is 79."""
    hidden = {one.upper() for one in suppress}
    unknown = sorted(hidden - set(CODES))
    if unknown:
        give_up(f"there is no code {unknown[0]!r}\nhint: pymesh analyze --list-codes shows them")
    try:
        found = [one for one in findings(folders, MeshOptions(trust_domain=trust_domain)) if one.code not in hidden]
    except SourceError as error:
        give_up(str(error))
    if output == "log":
        for one in found:
            click.echo(_line(one))
        click.echo(_summary(found))
    else:
        click.echo(show.data([_data(one) for one in found], "yaml" if output == "yaml" else "json"), nl=False)
    counted = SEVERITIES[: SEVERITIES.index(failure_threshold.lower()) + 1]
    sys.exit(FOUND if any(one.severity in counted for one in found) else 0)


def _line(one: Diagnostic) -> str:
    severity = click.style(one.severity, fg=_COLOURS[one.severity]) if show.is_coloured() else one.severity
    hint = f"\n  hint: {one.hint}" if one.hint else ""
    return f"{one.at}: {severity}: [{one.code}] {one.message}{hint}"


def _summary(found: list[Diagnostic]) -> str:
    counts = [(severity, sum(one.severity == severity for one in found)) for severity in SEVERITIES]
    told = [f"{count} {severity}{'s' if count > 1 else ''}" for severity, count in counts if count]
    return f"found {', '.join(told)}" if told else "nothing is wrong with it"


def _data(one: Diagnostic) -> dict[str, object]:
    return {
        "code": one.code,
        "name": CODES[one.code],
        "severity": one.severity,
        "at": str(one.at),
        "file": one.at.file,
        "line": one.at.line,
        "column": one.at.column,
        "message": one.message,
        "hint": one.hint,
    }
