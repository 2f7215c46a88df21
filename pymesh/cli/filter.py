"""`pymesh filter`: write, check, time and compile filters."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pymesh._bridge import ProxyError
from pymesh.authoring import timing
from pymesh.authoring.build import BuildError, build
from pymesh.authoring.check import check, config_of, locate
from pymesh.authoring.file import AuthorError
from pymesh.authoring.template import NameTakenError, write_new
from pymesh.cli.problem import give_up

PATH = click.Path(path_type=Path)
CONFIG = click.option("--config", type=PATH, metavar="FILE",
                      help="YAML or JSON: the settings, or a PythonFilter resource that has them.")  # fmt: skip


@click.group("filter")
def command() -> None:
    """Write, check, time and compile filters.

    \b
    pymesh filter new quota              quota.py, its test, its resource
    pymesh filter check quota.py         would the proxy load it?
    pymesh filter bench quota.py         what does a call cost, interpreted and compiled?
    pymesh filter build quota.py         a module in C, in build/
    """


@command.command("new")
@click.argument("name")
@click.option("--dir", "folder", type=PATH, default=Path(), metavar="DIR", help="Where to.  [default: here]")
def new(name: str, folder: Path) -> None:
    """Write a filter, its test and its resource.

    \b
    pymesh filter new quota
    pytest test_quota.py
    """
    try:
        written = write_new(name, folder)
    except NameTakenError as error:
        give_up(str(error))
    for path in written:
        click.echo(path)


@command.command("check")
@click.argument("target", metavar="FILE|MODULE:CLASS")
@CONFIG
def check_(target: str, config: Path | None) -> None:
    """Say whether the proxy would load a filter, and what it would call.

    \b
    pymesh filter check quota.py
    pymesh filter check quota.py --config quota.yaml
    pymesh filter check my_package.filters:Quota

    Problems are FILE:LINE:COLUMN, on standard error; the exit code is then 1.
    """
    try:
        found, problems = check(target, config_of(config))
    except AuthorError as error:
        give_up(str(error))
    for one in found:
        click.echo(one)
    if problems:
        give_up("\n".join(problems))


@command.command("bench")
@click.argument("target", metavar="FILE|MODULE:CLASS")
@CONFIG
@click.option("--path", default="/", show_default=True, metavar="PATH", help="Of the request.")
@click.option("-X", "--method", default="GET", show_default=True, metavar="METHOD")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Of the request.")
@click.option("--status", type=click.IntRange(200, 599), default=200, show_default=True, help="Of the response.")
@click.option("--calls", type=click.IntRange(min=1024), default=100_000, show_default=True, metavar="N",
              help="Of each hook.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def bench(
    target: str,
    config: Path | None,
    path: str,
    method: str,
    headers: tuple[str, ...],
    status: int,
    calls: int,
    as_json: bool,
) -> None:
    """Time the hooks of heads, on a worker's own path to them.

    \b
    pymesh filter bench quota.py -H 'x-user: ann'
    pymesh filter bench quota.py --config quota.yaml --json

    A file is timed as it is, and once more compiled. `when` and `wants` are not asked: the hooks are called. What the
    engine does around a call, `bench/run` measures.
    """
    try:
        message = timing.message(method, path, headers, status)
        results = timing.compare(target, config_of(config), message, calls)
    except (AuthorError, BuildError, ProxyError) as error:
        give_up(str(error))
    if as_json:
        click.echo(json.dumps([one.as_dict() for one in results], indent=2))
        return
    width = max((len(one.hook) for one in results), default=0)
    for one in results:
        low, high = one.spread()
        click.echo(f"{one.hook:<{width}}  {one.tier:<11}  {one.median():8.0f} ns   {low:.0f} to {high:.0f}")
    notes = dict.fromkeys(one.note for one in results if one.note)
    for note in notes:
        click.echo(note)
    click.echo("Medians, and what lies between the 10th and the 90th percentile, of batches of 256 calls.")


@command.command("build")
@click.argument("file", type=PATH)
@click.option("--out", type=PATH, default=Path("build"), show_default=True, metavar="DIR")
def build_(file: Path, out: Path) -> None:
    """Compile a filter: a module of the same name, with its hooks in C where they need no Python object.

    \b
    pymesh filter build quota.py
    PYTHONPATH=build pymesh proxy ...    and the resource has `class: quota:Quota` and no source
    """
    try:
        built = build(locate(file), out)
    except (AuthorError, BuildError) as error:
        give_up(str(error))
    click.echo(built.library)
    for hook in built.hooks:
        if hook.body is not None:
            click.echo(f"  {hook}: in C, called without the interpreter")
        else:
            click.echo(f"  {hook}: called in Python\n    {file}:{hook.line}: {hook.why_not}")
