"""`pymesh bench`: load on an HTTP server, and how late it answers."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pymesh.bench import picture, target, thresholds
from pymesh.bench.errors import BenchError
from pymesh.bench.quantities import seconds
from pymesh.bench.report import Report
from pymesh.bench.run import Plan, carry_out
from pymesh.bench.show import show
from pymesh.cli.problem import give_up

#: A threshold did not hold, or a status was not the expected one (k6's code for the same).
FAILED = 99

PATH = click.Path(path_type=Path)
_ENDING = (signal.SIGINT, signal.SIGTERM)


@click.command("bench")
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-c", "--connections", type=click.IntRange(1, 1_000_000), default=10, show_default=True, metavar="N")
@click.option("-m", "--streams", type=click.IntRange(1, 100_000), default=1, show_default=True, metavar="N",
              help="Requests at a time on each connection, with --http 2.")  # fmt: skip
@click.option("-w", "--workers", "-t", "--threads", type=click.IntRange(1, 1024), default=1, show_default=True,
              metavar="N", help="Threads; one sends some 100,000 requests per second.")  # fmt: skip
@click.option("-d", "--duration", metavar="TIME", help="How long requests begin.  [default: 10s]")
@click.option("-n", "--requests", "count", type=click.IntRange(min=1), metavar="N", help="So many, in place of a time.")
@click.option("-r", "--rate", type=click.FloatRange(0, 5_000_000, min_open=True), metavar="PER_SECOND",
              help="Open loop: so many requests begin per second, whatever becomes of those before them.")  # fmt: skip
@click.option("--arrivals", type=click.Choice(["constant", "poisson"]), default="constant", show_default=True,
              help="How an open loop spreads them.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), metavar="N",
              help="Of Poisson arrivals; shown, so that a run can be repeated.")  # fmt: skip
@click.option("--warm-up", default="0s", metavar="TIME", help="Load before the first request that counts.")
@click.option("--timeout", default="10s", show_default=True, metavar="TIME",
              help="Of a request from its intended start, and of connecting.")  # fmt: skip
@click.option("--http", "version", type=click.Choice(["1.1", "2"]), default="1.1", show_default=True)
@click.option("--no-keepalive", is_flag=True, help="HTTP/1.1: a connection for each request.")
@click.option("-X", "--method", metavar="METHOD", help="[default: GET, POST with a body]")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'",
              help="Beside host and content-length nothing is sent by itself.")  # fmt: skip
@click.option("--body", metavar="TEXT|@FILE")
@click.option("--resolve", multiple=True, metavar="HOST:PORT:ADDRESS", help="In place of looking the name up.")
@click.option("--cacert", type=PATH, metavar="FILE", help="Roots in place of the system's.")
@click.option("--cert", type=PATH, metavar="FILE", help="Client certificate and its chain.")
@click.option("--key", type=PATH, metavar="FILE")
@click.option("-k", "--insecure", is_flag=True, help="Take any certificate.")
@click.option("--sni", metavar="NAME", help="In place of the URL's host; certificates are judged by it.")
@click.option("--expect", multiple=True, metavar="STATUS",
              help="200 or 2xx; any other is an error, and then the exit code is 99.  [default: < 400]")  # fmt: skip
@click.option("--fail-if", "conditions", multiple=True, metavar="CONDITION",
              help="'p99>20ms', 'max>1s', 'errors>0.1%', 'rate<900': then the exit code is 99.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE|-",
              help="Write the report there; with - in place of the table.")  # fmt: skip
@click.option("--png", type=PATH, metavar="FILE", help="Draw latencies and rates (needs the extra `bench`).")
def command(
    urls: tuple[str, ...],
    connections: int,
    streams: int,
    workers: int,
    duration: str | None,
    count: int | None,
    rate: float | None,
    arrivals: str,
    seed: int | None,
    warm_up: str,
    timeout: str,
    version: str,
    no_keepalive: bool,
    method: str | None,
    headers: tuple[str, ...],
    body: str | None,
    resolve: tuple[str, ...],
    cacert: Path | None,
    cert: Path | None,
    key: Path | None,
    insecure: bool,
    sni: str | None,
    expect: tuple[str, ...],
    conditions: tuple[str, ...],
    json_file: Path | None,
    png: Path | None,
) -> None:
    """Measure how fast and how late a server answers.

    \b
    pymesh bench http://127.0.0.1:8080/                       as fast as 10 connections go
    pymesh bench -r 1000 -c 50 -d 30s http://127.0.0.1:8080/  1,000 requests per second
    pymesh bench --http 2 -c 8 -m 32 https://a.test/          8 connections x 32 streams

    Without --rate each connection waits for its answer before it asks again: that finds the highest rate, and hides
    what a stall would have done to others. With --rate latencies run from when a request should have started.
    """
    try:
        _check(streams, version, workers, connections, rate, arrivals, seed, duration, count, no_keepalive)
        expected, broken_by = _expected(expect), [thresholds.parse(text) for text in conditions]
        if png:
            picture.require()
        where = target.parse(urls)
        poisson_seed = None if rate is None or arrivals == "constant" else seed if seed is not None else time.time_ns()
        plan = Plan(
            address=target.address(where, resolve),
            tls=target.tls(where, insecure=insecure, cacert=cacert, cert=cert, key=key, sni=sni),
            http2=version == "2",
            keep_alive=not no_keepalive,
            requests=target.requests(where, method, headers, body),
            workers=workers,
            connections=connections,
            streams=streams,
            rate=rate,
            poisson_seed=poisson_seed,
            duration=None if count is not None else _positive("--duration", duration or "10s"),
            count=count,
            warm_up=seconds("--warm-up", warm_up),
            timeout=_positive("--timeout", timeout),
        )
        with _watching(plan) as watch:
            counts = carry_out(plan, watch)
    except BenchError as error:
        give_up(str(error))
    report = Report(urls, plan, counts, expected, broken_by)
    _write(report, json_file, png)
    sys.exit(FAILED if report.has_failed else 0)


def _check(
    streams: int,
    version: str,
    workers: int,
    connections: int,
    rate: float | None,
    arrivals: str,
    seed: int | None,
    duration: str | None,
    count: int | None,
    no_keepalive: bool,
) -> None:
    if streams > 1 and version != "2":
        raise BenchError("-m is for --http 2; HTTP/1.1 carries one request at a time; hint: -c more connections")
    if no_keepalive and version == "2":
        raise BenchError("--no-keepalive is for HTTP/1.1")
    if workers > connections:
        raise BenchError(f"{workers} workers need a connection each, and there are {connections}; hint: raise -c")
    if duration is not None and count is not None:
        raise BenchError("-d and -n both say when to end; hint: give one of them")
    if arrivals == "poisson" and rate is None:
        raise BenchError("--arrivals is for an open loop; hint: give a --rate")
    if seed is not None and arrivals != "poisson":
        raise BenchError("--seed is for --arrivals poisson; there is nothing else that is random")


def _positive(option: str, text: str) -> float:
    value = seconds(option, text)
    if value <= 0:
        raise BenchError(f"{option} {text!r} is no time at all")
    return value


def _expected(given: tuple[str, ...]) -> frozenset[int]:
    found = set()
    for text in given:
        digits = text.removesuffix("xx")
        if not (digits.isdecimal() and digits.isascii() and len(digits) == (1 if text.endswith("xx") else 3)):
            raise BenchError(f"--expect {text!r} is no status; hint: write 200 or 2xx")
        found.add(int(digits))
    return frozenset(found)


@contextmanager
def _watching(plan: Plan) -> Iterator[Callable[[int, int], bool]]:
    """Shows how the run goes on, on a terminal only, and ends it upon Ctrl-C or SIGTERM."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in _ENDING}
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("connecting", total=plan.count or (plan.duration or 0) + plan.warm_up)
            yield lambda answered, failed: _tick(bar, task, plan, answered, failed) and not received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tick(bar: Progress, task: TaskID, plan: Plan, answered: int, failed: int) -> bool:
    shown = bar.tasks[task]
    elapsed = shown.elapsed or 0.0
    done = answered + failed if plan.count else elapsed
    # The rate of the last moments, not of the whole run: what has just changed is what one looks for.
    then, before = shown.fields.get("last", (0.0, 0))
    rate = (answered - before) / (elapsed - then) if elapsed > then else 0.0
    if elapsed - then >= 0.5:
        bar.update(task, last=(elapsed, answered))
    errors = f", {failed:,} failed" if failed else ""
    bar.update(task, completed=done, description=f"{rate:,.0f} answers/s, {answered:,} answered{errors}")
    return True


def _write(report: Report, json_file: Path | None, png: Path | None) -> None:
    text = orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if json_file == Path("-"):
        click.echo(text, nl=False)
    else:
        show(report, Console(highlight=False))
    try:
        if json_file and json_file != Path("-"):
            json_file.write_bytes(text)
        if png:
            picture.draw(report, png)
    except OSError as error:
        give_up(f"{error.filename} cannot be written: {error.strerror}")
