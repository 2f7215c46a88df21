"""`pymesh inject`: sidecars for the pods in a manifest, as the cluster's webhook would make them."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import yaml

from pymesh.cli.problem import give_up
from pymesh.control.injection import documents, settings
from pymesh.control.injection.manifest_yaml import Dumper
from pymesh.control.injection.settings import InjectionSettings
from pymesh.control.install.values import DEFAULT_IMAGE
from pymesh.control.resources.diagnostics import ConfigError

PATH = click.Path(path_type=Path, allow_dash=True)


@click.command("inject")
@click.option("-f", "--filename", "files", required=True, multiple=True, type=PATH, metavar="FILE",
              help="A manifest; - is standard input. Repeatable.")  # fmt: skip
@click.option("--settings", "settings_file", type=PATH, metavar="FILE",
              help="The mesh's InjectionSettings; by default those that `pymesh install` writes.")  # fmt: skip
@click.option("-n", "--namespace", default="default", show_default=True, help="Of documents that name none.")
def command(files: tuple[Path, ...], settings_file: Path | None, namespace: str) -> None:
    """Give the pods in a manifest sidecars.

    \b
    pymesh inject -f app.yaml | kubectl apply -f -
    kubectl get deployment web -o yaml | pymesh inject -f - | kubectl apply -f -

    Pods, and the templates of Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs and CronJobs are injected as the
    cluster's webhook would; other documents are as they were. What is left without a sidecar is told on standard error.
    """
    try:
        used = settings.read(settings_file) if settings_file else InjectionSettings(image=DEFAULT_IMAGE)
        made = [documents.inject_all(str(file), _text(file), used, namespace) for file in files]
    except ConfigError as error:
        give_up("\n".join(map(str, error.diagnostics)))
    for one in made:
        for reason in one.skipped:
            click.echo(f"no sidecar for {reason}", err=True)
    found = [document for one in made for document in one.documents]
    click.echo(yaml.dump_all(found, Dumper=Dumper, sort_keys=False, width=4096), nl=False)


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        give_up(f"{file}: {error.strerror}")
    except UnicodeDecodeError as error:
        give_up(f"{file}: is not UTF-8: {error.reason}")
