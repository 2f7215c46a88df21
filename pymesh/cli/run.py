"""`pymesh run`: a command with a sidecar."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pymesh.control.resources.decode import duration
from pymesh.local.errors import LocalMeshError
from pymesh.local.ports import Ports
from pymesh.run import order, settings
from pymesh.run.settings import Crash, Given, Settings, Times

PATH = click.Path(path_type=Path)


def _time(context: click.Context, parameter: click.Parameter, text: str) -> float:
    parsed = duration(text)
    if parsed is None:
        raise click.BadParameter(f"{text!r} is not a duration; hint: write 30s or 500ms", context, parameter)
    return parsed.total_seconds()


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.option("-f", "--file", type=PATH, envvar="PYMESH_WORKLOAD", metavar="FILE",
              help="Document of kind LocalWorkload; flags and variables win over it.")  # fmt: skip
@click.option("--name", envvar="PYMESH_NAME", help="The workload's name.")
@click.option("--namespace", envvar="PYMESH_NAMESPACE", help="default: 'default'")
@click.option("--service", envvar="PYMESH_SERVICE", help="The service it belongs to; its own name by default.")
@click.option("--version", envvar="PYMESH_VERSION", help="v1 by default.")
@click.option("--service-account", envvar="PYMESH_SERVICE_ACCOUNT", help="That of its token; its name by default.")
@click.option("--address", envvar="PYMESH_ADDRESS", metavar="IP", help="Where others reach it; 127.0.0.1 by default.")
@click.option("--control", envvar="PYMESH_CONTROL", metavar="IP:PORT", help="The control plane.")
@click.option("--root", type=PATH, envvar="PYMESH_ROOT", metavar="FILE", help="Roots it is trusted by at the start.")
@click.option("--token", type=PATH, envvar="PYMESH_TOKEN", metavar="FILE", help="The join token (mode 0600).")
@click.option("--register", type=PATH, envvar="PYMESH_REGISTER", metavar="DIR",
              help="Folder of the control plane's configuration to tell of this workload while it runs.")  # fmt: skip
@click.option("--port", "ports", multiple=True, envvar="PYMESH_PORTS", metavar="NAME=PORT",
              help="A port that the command listens on, with --register.")  # fmt: skip
@click.option("--call", "calls", multiple=True, envvar="PYMESH_CALLS", metavar="SERVICE=PORT",
              help="A loopback port that leads to a service, with --register.")  # fmt: skip
@click.option("--ready-timeout", metavar="TIME", callback=_time, envvar="PYMESH_READY_TIMEOUT", default="60s",
              show_default=True, help="For the sidecar to be ready; then 125; the command has not run.")  # fmt: skip
@click.option("--notice", metavar="TIME", callback=_time, envvar="PYMESH_NOTICE", default="1s", show_default=True,
              help="Between the drain's beginning and the signal to the command.")  # fmt: skip
@click.option("--grace", metavar="TIME", callback=_time, envvar="PYMESH_GRACE", default="30s", show_default=True,
              help="For the command to end after the signal; then it is killed.")  # fmt: skip
@click.option("--drain", metavar="TIME", callback=_time, envvar="PYMESH_DRAIN", default="5s", show_default=True,
              help="For the sidecar's connections to end after the command.")  # fmt: skip
@click.option("--on-crash", type=click.Choice(["restart", "end"]), envvar="PYMESH_ON_CRASH", show_default=True,
              default="restart", help="The sidecar crashes: start it again, or end the command (125).")  # fmt: skip
@click.option("--concurrency", type=click.IntRange(min=1), envvar="PYMESH_CONCURRENCY", default=1, show_default=True,
              help="The sidecar's worker threads.")  # fmt: skip
@click.option("--log", type=PATH, envvar="PYMESH_LOG", metavar="FILE", help="Keep the sidecar's output there.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    file: Path | None,
    command: tuple[str, ...],
    ready_timeout: float,
    notice: float,
    grace: float,
    drain: float,
    on_crash: Crash,
    concurrency: int,
    log: Path | None,
    **given: Any,
) -> None:
    """Run a command with a sidecar.

    The sidecar is ready before it and gone after it. The exit code is the command's. Each option may be said by the
    variable PYMESH_<OPTION>, too."""
    ports = Ports()
    try:
        workload, control, token, register = settings.workload(Given(**given), file, command, ports.take)
    except LocalMeshError as error:
        order.tell(str(error))
        sys.exit(order.NO_SIDECAR)
    times = Times(ready_timeout, notice, grace, drain)
    made = Settings(workload, control, token, register, times, on_crash, concurrency, log and log.resolve())
    try:
        code = order.run(made, command)
    finally:
        ports.close()
    sys.exit(code)
