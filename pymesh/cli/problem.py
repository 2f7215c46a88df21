"""How a command says that it cannot go on: the problem on stderr, exit code 1."""

from __future__ import annotations

import sys
from typing import NoReturn

import click


def give_up(text: str) -> NoReturn:
    """Prints the problem, one line or several, and ends the process with 1."""
    click.echo(f"error: {text}", err=True)
    sys.exit(1)
