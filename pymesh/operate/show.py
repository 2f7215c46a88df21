"""Tables of plain text with columns as wide as they need to be, and the same as JSON and YAML.

Colour marks what is wrong, and only on a terminal whose user has not asked for none (`NO_COLOR`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Literal

import click
import orjson
import yaml

from pymesh.operate.mesh import DEFAULT_ADMIN

Format = Literal["table", "wide", "json", "yaml"]

OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["table", "wide", "json", "yaml"]), default="table", show_default=True
)


ADMIN = click.option(
    "--admin",
    envvar="PYMESH_ADMIN",
    show_envvar=True,
    metavar="HOST:PORT",
    help=f"Admin address of the control plane; by default that of `pymesh up` if one runs here, else {DEFAULT_ADMIN}.",
)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns with three spaces between them; nothing stands behind the last."""
    lines = [headings, *([str(one) for one in row] for row in rows)]
    widths = [max(len(str(line[n])) for line in lines) for n in range(len(headings))]
    made = []
    for line in lines:
        cells = [str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)]
        made.append("   ".join(cells).rstrip())
    return "\n".join(made) + "\n"


def data(value: Any, output: Format) -> str:
    """Plain data for machines."""
    if output == "yaml":
        return yaml.safe_dump(value, sort_keys=False, width=120)
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def is_coloured() -> bool:
    """Whether colour is wanted on standard output."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def marked(text: str, *words: str) -> str:
    """The text with these words in red, where colour is wanted."""
    if is_coloured():
        for word in words:
            text = text.replace(word, click.style(word, fg="red"))
    return text
