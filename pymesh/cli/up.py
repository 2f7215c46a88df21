"""`pymesh up`: a mesh of plain processes on this machine."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pymesh.cli.problem import give_up
from pymesh.local import check, http, meshfile, scenario, stats, traffic
from pymesh.local.errors import LocalMeshError
from pymesh.local.findings import findings
from pymesh.local.meshfile import LocalMesh
from pymesh.local.runner import Options, Runner
from pymesh.local.scenario import Scenario
from pymesh.local.stage import Stage

console = Console(highlight=False)

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
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Keep configuration and logs of the run there.")  # fmt: skip
def command(
    target: Path, checked: bool, scenarios: tuple[str, ...], port: int | None, envoy: tuple[str, ...], keep: Path | None
) -> None:
    """Run a mesh of plain processes on this machine.

    DIR holds a mesh.yaml and the resources that it names."""
    try:
        mesh = meshfile.read(target)
        plays = scenario.chosen(mesh, scenarios)
        mesh = scenario.with_apps(mesh, plays)
    except LocalMeshError as error:
        give_up(str(error))
    if checked and mesh.traffic is None:
        give_up(f"{target}: --check needs `traffic` in the mesh file")
    with tempfile.TemporaryDirectory(prefix="pymesh-") as temporary:
        folder = keep.resolve() if keep else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        runner = Runner(mesh, folder, Options(port, copied=checked or bool(plays), envoy=envoy))
        sys.exit(asyncio.run(_main(runner, mesh, plays, checked)))


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
    try:
        return await task
    except asyncio.CancelledError:
        # A mesh is ended by Ctrl-C; a check that did not come to its end has not passed.
        return 128 + received[0] if checked and received else 0
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


async def _run(runner: Runner, mesh: LocalMesh, plays: Sequence[Scenario], checked: bool) -> int:
    with console.status("starting") as status:
        await runner.start(lambda text: status.update(f"starting {text}"))
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
