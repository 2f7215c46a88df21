"""What a person can mend: a wrong argument, a target that is not there."""

from __future__ import annotations


class BenchError(Exception):
    """The run cannot begin; the text is for the user."""
