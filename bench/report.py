"""Results as tables for people, JSON for machines, and a chart."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.measure import Memory, Sample
from bench.proxies import BASES, COMPETITORS, FILTERED, OBSERVED, ROUTED

#: By the title of a load, then by the name of a proxy.
Results = dict[str, dict[str, list[Sample]]]


@dataclass
class Report:
    """Everything that one run found."""

    date: str
    rounds: int
    seconds: int
    loads: Results = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)

    def add(self, title: str, name: str, sample: Sample) -> None:
        """One more sample."""
        self.loads.setdefault(title, {}).setdefault(name, []).append(sample)

    def show(self, console: Console) -> None:
        """The tables: medians over the rounds, best first; ratios to the best peer of the same run."""
        for title, by_name in self.loads.items():
            console.print(_load_table(title, {name: median(found) for name, found in by_name.items()}))
        if self.memory:
            console.print(_memory_table(self.memory))

    def write(self, folder: Path) -> tuple[Path, Path]:
        """JSON, chart, and the tables of `README.md`; returns where the first two are."""
        folder.mkdir(parents=True, exist_ok=True)
        machine = {"cores": os.cpu_count(), "kernel": platform.release(), "arch": platform.machine()}
        data, picture = folder / f"{self.date}.json", folder / f"{self.date}.png"
        data.write_text(json.dumps({"machine": machine, **asdict(self)}, indent=1) + "\n")
        (folder / f"{self.date}.md").write_text("\n".join(self._markdown()) + "\n")
        _chart({title: {n: median(s).cpu for n, s in by.items()} for title, by in self.loads.items()}, picture)
        return data, picture

    def _markdown(self) -> Iterator[str]:
        """CPU of each proxy under each load, then everything that was seen of each."""
        names = [one.name for one in COMPETITORS if any(one.name in by_name for by_name in self.loads.values())]
        medians = {title: {name: median(s) for name, s in by.items()} for title, by in self.loads.items()}
        yield f"| CPU µs per request | {' | '.join(names)} | x best peer |"
        yield "|---|" + "---|" * (len(names) + 1)
        for title, by_name in medians.items():
            peers = [one.cpu for name, one in by_name.items() if name in names and name != "pymesh"]
            if "pymesh" in by_name and peers and not set(by_name) - set(names):
                row = (f"{by_name[name].cpu:.1f}" if name in by_name else "-" for name in names)
                yield f"| {title} | {' | '.join(row)} | {by_name['pymesh'].cpu / min(peers):.2f} |"
        for title, kind in (("idle memory, MiB", "idle"), ("KiB for an idle connection", "per_connection")):
            if self.memory:
                figures = {
                    name: getattr(one, kind) / (1024 if kind == "idle" else 1) for name, one in self.memory.items()
                }
                row = (f"{figures[name]:.1f}" if name in figures else "-" for name in names)
                yield f"| {title} | {' | '.join(row)} | |"
        yield ""
        yield "| load | proxy | req/s | p50 ms | p99 ms | user µs | CPU µs |"
        yield "|---|---|---|---|---|---|---|"
        for title, by_name in medians.items():
            for name, one in by_name.items():
                figures = f"{one.per_second:,.0f} | {one.p50:.2f} | {one.p99:.2f} | {one.user:.1f} | {one.cpu:.1f}"
                yield f"| {title} | {name} | {figures} |"


def median(samples: Sequence[Sample]) -> Sample:
    """Each figure's median."""
    columns = zip(*(asdict(sample).values() for sample in samples), strict=True)
    return Sample(*(statistics.median(column) for column in columns))


def _load_table(title: str, by_name: Mapping[str, Sample]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("proxy")
    for heading in ("CPU µs", "user µs", "x best peer", "req/s", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    bases = {one.name: one.base for one in (*FILTERED, *OBSERVED, *ROUTED)}
    peers = [one.cpu for name, one in by_name.items() if name not in bases and name != "pymesh"]

    def against(name: str, one: Sample) -> str:
        if base := by_name.get(bases.get(name) or ""):
            return f"{one.cpu - base.cpu:+.2f} µs, {one.cpu / base.cpu:.2f} x"
        return f"{one.cpu / min(peers):.2f}" if peers else "-"

    for name, one in sorted(by_name.items(), key=lambda pair: pair[1].cpu):
        figures = (f"{one.cpu:.2f}", f"{one.user:.2f}", against(name, one), f"{one.per_second:,.0f}")
        table.add_row(name, *figures, f"{one.p50:.2f}", f"{one.p99:.2f}")
    return table


def _memory_table(by_name: Mapping[str, Memory]) -> Table:
    table = Table(title="Memory", title_justify="left")
    table.add_column("proxy")
    for heading in ("idle MiB", "KiB per idle connection"):
        table.add_column(heading, justify="right")
    for name, one in by_name.items():
        table.add_row(name, f"{one.idle / 1024:.1f}", f"{one.per_connection:.2f}")
    return table


def _chart(loads: Mapping[str, Mapping[str, float]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [one.name for one in (*COMPETITORS, *BASES, *FILTERED, *OBSERVED, *ROUTED)]
    columns = min(3, len(loads))
    rows = -(-len(loads) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.6 * columns, 3.4 * rows), squeeze=False)
    for axis in axes.flat[len(loads) :]:
        axis.set_visible(False)
    for axis, (title, by_name) in zip(axes.flat, loads.items(), strict=False):
        shown = [name for name in names if name in by_name]
        colours = ["#2a6f97" if name.startswith("pymesh") else "#b8c4cc" for name in shown]
        bars = axis.barh([name.replace(" + ", "\n+ ") for name in shown], [by_name[n] for n in shown], color=colours)
        axis.bar_label(bars, fmt="%.1f", padding=2)
        axis.margins(x=0.15)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("CPU µs per request", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
