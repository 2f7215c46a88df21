"""The report as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pymesh.bench.histogram import PERCENTILES, Histogram
from pymesh.bench.quantities import milliseconds, octets
from pymesh.bench.report import Report


def show(report: Report, console: Console) -> None:
    """What was done, what came of it, how long it took, and what to think of that."""
    console.print(f"[bold]{escape(_title(report))}[/]", soft_wrap=True)
    console.print(_counts(report))
    if report.counts.latency.count:
        console.print(_latencies(report))
    for doubt in report.doubts:
        console.print(f"[yellow]note:[/] {escape(doubt)}", soft_wrap=True)
    for one in report.thresholds:
        verdict = "[red]failed[/]" if one in report.broken else "[green]held[/]"
        console.print(f"{verdict}: --fail-if {escape(one.text)}")
    if report.expected and report.errors:
        console.print(f"[red]failed[/]: {report.errors:,} requests did not get an expected status")


def _title(report: Report) -> str:
    plan, first = report.plan, report.plan.requests[0]
    more = f" and {len(report.urls) - 1} more" if len(report.urls) > 1 else ""
    places = f"{plan.connections} connections" + (f" x {plan.streams} streams" if plan.streams > 1 else "")
    if plan.rate is None:
        loop = "closed loop"
    else:
        spread = "evenly" if plan.poisson_seed is None else f"Poisson, seed {plan.poisson_seed}"
        loop = f"open loop at {plan.rate:,.0f}/s ({spread})"
    length = f"{plan.count:,} requests" if plan.count is not None else f"{report.counts.window:.4g} s"
    warm_up = f" after {plan.warm_up:g} s of warm-up" if plan.warm_up else ""
    return f"{first.method} {report.urls[0]}{more}, {report.protocol}, {places}, {loop}, {length}{warm_up}"


def _counts(report: Report) -> Table:
    counts = report.counts
    table = Table.grid(padding=(0, 2))
    parts = [f"{report.answered:,} answered", f"{report.failed:,} failed"]
    parts += [f"{counts.unfinished:,} unfinished"] if counts.unfinished else []
    parts += [f"{counts.resent:,} sent again after a GOAWAY"] if counts.resent else []
    table.add_row("requests", ", ".join(parts))
    table.add_row("rate", f"{report.rate:,.1f} answers/s, {octets(report.octets_per_second)}/s of bodies")
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(counts.statuses.items()))
    table.add_row("statuses", statuses or "none")
    for kind, (count, examples) in counts.failures.items():
        table.add_row("failures", escape(f"{kind}: {count:,} ({'; '.join(examples)})"))
    opened = f"{counts.connections_opened:,} opened"
    opened += f" in {milliseconds(counts.connect.percentile(50))} ms (median)" if counts.connect.count else ""
    opened += f", {counts.connections_failed:,} failed" if counts.connections_failed else ""
    closed = counts.connections_closed_by_target
    opened += f", {closed:,} closed by the target" if closed else ""
    table.add_row("connections", opened)
    return table


def _latencies(report: Report) -> Table:
    table = Table(title_justify="left")
    table.add_column("latency, ms")
    shown: list[Histogram] = [report.counts.latency]
    if report.is_open:
        table.add_column("from the intended start", justify="right")
        table.add_column("from when it was sent", justify="right")
        shown.append(report.counts.service)
    else:
        table.add_column("", justify="right")
    table.add_row("mean", *(milliseconds(one.mean) for one in shown))
    for percent in PERCENTILES:
        table.add_row(f"p{percent:g}", *(milliseconds(one.percentile(percent)) for one in shown))
    table.add_row("max", *(milliseconds(one.most) for one in shown))
    return table
