"""`pymesh up`: a mesh of plain processes on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pymesh.cli.problem import give_up
from pymesh.local import check, ground, http, meshfile, scenario, scenario_names, stats, traffic
from pymesh.local.announced import announced
from pymesh.local.door import GoneError, Inside
from pymesh.local.errors import LocalMeshError
from pymesh.local.findings import findings
from pymesh.local.meshfile import LocalMesh
from pymesh.local.runner import Options, Runner
from pymesh.local.scenario import Scenario
from pymesh.local.stage import Stage

console = Console(highlight=False)

#: How long a mesh whose outside is gone may take to end.
_LONGEST_END_S = 60.0
#: SIGHUP comes when the terminal goes.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command("up")
@click.argument("target", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--check", "checked", is_flag=True, help="Headless: hold the mesh to its promises; exit code 0 or 1.")
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    metavar="NAME",
    help="Play DIR/scenarios/NAME.yaml on the mesh, `all` for each; with --check the mesh ends after it.",
)
@click.option("--port", type=click.IntRange(0, 65535), help="The gateway's port; 0 takes a free one.")
@click.option("--envoy", multiple=True, metavar="WORKLOAD", help="Run a real Envoy as this workload's proxy.")
@click.option("--concurrency", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Worker threads of each proxy.")  # fmt: skip
@click.option("--capture", is_flag=True,
              help="Each workload in a network of its own; apps call each other by name.")  # fmt: skip
@click.option("--inside", hidden=True, metavar="USER:GROUP", help="For --capture itself.")
@click.option("--door", hidden=True, type=int, metavar="FD", help="For --capture itself.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Keep configuration and logs of the run there.")  # fmt: skip
def command(
    target: Path,
    checked: bool,
    scenarios: tuple[str, ...],
    port: int | None,
    envoy: tuple[str, ...],
    concurrency: int,
    capture: bool,
    inside: str | None,
    door: int | None,
    keep: Path | None,
) -> None:
    """Run a mesh of plain processes on this machine.

    DIR holds a mesh.yaml and the resources that it names."""
    try:
        mesh = meshfile.read(target)
        plays = scenario.chosen(mesh, scenarios)
        if door is not None:
            plays = _captured(plays, scenarios)
        mesh = scenario.with_apps(mesh, plays)
        scenario_names.check(mesh, plays)
    except LocalMeshError as error:
        give_up(str(error))
    if checked and mesh.traffic is None:
        give_up(f"{target}: --check needs `traffic` in the mesh file")
    if capture:
        _on_own_ground(checked)
    with tempfile.TemporaryDirectory(prefix="pymesh-") as temporary:
        folder = keep.resolve() if keep else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        options = Options(port, copied=checked or bool(plays), envoy=envoy, concurrency=concurrency)
        if door is not None:
            options = replace(options, door=Inside(socket.socket(fileno=door)), user=_ids(inside))
        runner = Runner(mesh, folder, options)
        sys.exit(asyncio.run(_main(runner, mesh, plays, checked)))


def _on_own_ground(checked: bool) -> None:
    """Run the same command in namespaces, and end as it does; returns if there is nothing but explicit ports."""
    try:
        found = ground.choose()
    except LocalMeshError as error:
        give_up(str(error))
    console.print(found.told, soft_wrap=True)
    if found.kind == "ports":
        return
    words = [word for word in sys.argv[1:] if word != "--capture"]
    ids = [] if found.kind == "root" else ["--inside", f"{os.getuid()}:{os.getgid()}"]
    code, received = ground.run(found, [sys.executable, "-m", "pymesh", *words, *ids, "--door"])
    if received is not None:
        code = 128 + received if checked else 0
    sys.exit(code)


def _captured(plays: tuple[Scenario, ...], wanted: tuple[str, ...]) -> tuple[Scenario, ...]:
    """Those that can be played where each workload has an address of its own; gives up if another one was asked for."""
    bound = [one for one in plays if one.explicit_port]
    for one in bound:
        if one.name in wanted:
            give_up(
                f"{one.file}: {one.explicit_port} is a port on loopback, so this cannot be played with --capture\n"
                "hint: play it without --capture"
            )
    if bound:
        names = ", ".join(one.name for one in bound)
        console.print(f"not played with --capture, since they speak of ports on loopback: {names}", soft_wrap=True)
    return tuple(one for one in plays if not one.explicit_port)


def _ids(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    user, _, group = text.partition(":")
    return int(user), int(group)


async def _main(runner: Runner, mesh: LocalMesh, plays: Sequence[Scenario], checked: bool) -> int:
    task = asyncio.create_task(_run(runner, mesh, plays, checked))
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        # Once: another signal must not leave half of the processes behind.
        if not received:
            received.append(number)
            task.cancel()

    for number in _ENDING:
        loop.add_signal_handler(number, end, number)
    if runner.options.door is not None:
        runner.options.door.watch(partial(_outside_is_gone, end))
    try:
        return await task
    except asyncio.CancelledError:
        # A mesh is ended by Ctrl-C; a check that did not come to its end has not passed.
        return 128 + received[0] if checked and received else 0
    except GoneError:
        return 0
    except LocalMeshError as error:
        console.print(f"[red]error:[/] {error}", markup=True, soft_wrap=True)
        return 1
    finally:
        for number in _ENDING:
            # For good: what is pressed once more must not disturb the interpreter's own end either.
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        with console.status("stopping"):
            await runner.stop()
        left = check.leftovers(runner.folder)
        if left:
            console.print("[red]still running:[/]", *left, sep="\n")


def _outside_is_gone(end: Callable[[signal.Signals], None]) -> None:
    """The process outside wants us to end, or was killed. Nobody else could make us."""
    limit = threading.Timer(_LONGEST_END_S, os._exit, [1])
    limit.daemon = True
    limit.start()
    end(signal.SIGTERM)


async def _run(runner: Runner, mesh: LocalMesh, plays: Sequence[Scenario], checked: bool) -> int:
    with console.status("starting") as status:
        await runner.start(lambda text: status.update(f"starting {text}"))
    outside = runner.options.user
    with announced(f"127.0.0.1:{runner.control_admin}", str(mesh.folder), outside[0] if outside else os.getuid()):
        return await _ready(runner, mesh, plays, checked)


async def _ready(runner: Runner, mesh: LocalMesh, plays: Sequence[Scenario], checked: bool) -> int:
    _show_addresses(runner)
    if mesh.traffic is None:
        await asyncio.Event().wait()
        return 0
    await _first_answer(runner, mesh.traffic)
    if plays:
        held = await _play(runner, plays)
        if checked:
            return 0 if held else 1
    elif checked:
        return await _check(runner, mesh.traffic)
    await _live(runner, mesh.traffic)
    return 0


def _show_addresses(runner: Runner) -> None:
    for name, port in runner.gateway_ports.items():
        console.print(f"gateway [bold]{name}[/]: http://127.0.0.1:{port}/")
    console.print(f"web UI: http://127.0.0.1:{runner.control_admin}/ui/")
    console.print(f"control plane: http://127.0.0.1:{runner.control_admin}/debug/syncz")
    for workload in runner.plan:
        console.print(f"{workload.proxy_name}: admin http://127.0.0.1:{workload.admin_port}/")
    if not runner.options.copied:
        console.print("configuration (edit it while this runs): " + ", ".join(str(path) for path in runner.config))
    console.print(f"logs: {runner.folder / 'logs'}")


async def _first_answer(runner: Runner, wanted: meshfile.Traffic) -> None:
    """Every proxy is ready, but endpoints reach the callers a moment later."""
    port = runner.gateway_ports[wanted.gateway]
    for _ in range(100):
        tally = await traffic.burst(port, wanted.path, 3, connections=1)
        if not tally.failed:
            return
        await asyncio.sleep(0.1)
    raise LocalMeshError(f"the gateway does not answer {wanted.path}: {tally.first_failure}")


async def _play(runner: Runner, plays: Sequence[Scenario]) -> bool:
    """Each scenario in turn; True if all that was expected was seen."""
    stage = Stage(runner)
    held = True
    for one in plays:
        console.print(f"[bold]{one.name}[/]: {escape(one.spec.shows)}", soft_wrap=True)
        async with aclosing(stage.play(one)) as results:
            async for result in results:
                mark = "[green]held[/]  " if result.held else "[red]broken[/]"
                console.print(f"  {mark} {escape(f'{result.step}: {result.seen}')}", soft_wrap=True)
                held &= result.held
    return held


async def _check(runner: Runner, wanted: meshfile.Traffic) -> int:
    def done(result: check.Result) -> None:
        mark = "[green]kept[/]  " if result.kept else "[red]broken[/]"
        console.print(f"{mark} {result.promise}: {result.seen}", soft_wrap=True)

    return 0 if await check.Check(runner, wanted).run(done) else 1


async def _live(runner: Runner, wanted: meshfile.Traffic) -> None:
    tally = traffic.Tally()
    port = runner.gateway_ports[wanted.gateway]
    sender = asyncio.create_task(traffic.steady(port, wanted.path, wanted.per_second, tally))
    try:
        with Live(console=console, refresh_per_second=4) as live:
            found: list[str] = []
            while True:
                found = await _tell_findings(runner, found)
                failed = runner.failed()
                live.update(
                    _table(stats.edges(await stats.scrape(runner.plan)), tally, failed.name if failed else None)
                )
                await asyncio.sleep(0.5)
    finally:
        sender.cancel()
        with suppress(asyncio.CancelledError):
            await sender


async def _tell_findings(runner: Runner, told: list[str]) -> list[str]:
    """Print what is wrong with the configuration, above the table, if it is not what was `told` last."""
    try:
        found = await findings(runner.control_admin)
    except (OSError, http.HttpError):
        # A control plane that is away tells nothing new.
        return told
    if found != told:
        for one in found:
            console.print(f"[red]configuration:[/] {escape(one)}", soft_wrap=True)
        if not found:
            console.print("[green]configuration:[/] nothing is wrong with it any more")
    return found


def _table(edges: stats.Edges, tally: traffic.Tally, ended: str | None) -> Table:
    caption = f"{tally.total} requests sent, {tally.failed} failed; Ctrl-C ends the mesh"
    table = Table(title="edges of the mesh", caption=f"{ended} has ended; {caption}" if ended else caption)
    table.add_column("from")
    table.add_column("to")
    for heading in ("requests", "success", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    for (source, destination), edge in sorted(edges.items()):
        quantiles = [edge.quantile(q) for q in (0.5, 0.99)]
        shown = ["-" if value is None else f"{value:.1f}" for value in quantiles]
        table.add_row(source, destination, str(edge.requests), f"{edge.success:.1%}", *shown)
    return table
