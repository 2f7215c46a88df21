"""A document within a document, as in a ConfigMap: its places are told as places of the file that it stands in."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pymesh.control.resources.diagnostics import Position


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar that holds a document."""

    value: str
    #: Where the scalar begins.
    at: Position
    #: Whether it is written as a literal block (``|``), of which each line is a line of the file.
    literal: bool = False
    #: How far the block is indented.
    indent: int = 0

    def within(self, file: str) -> Text:
        """The same with the indentation that the file's text gives it."""
        lines = file.splitlines()[self.at.line :]
        for outer, inner in zip(lines, self.value.splitlines(), strict=False):
            if inner.strip():
                return replace(self, indent=len(outer) - len(inner))
        return self

    def position(self, line: int, column: int) -> Position:
        """Where a place in the document, counted from 0, is in the file; what is not a literal block has one place."""
        if not self.literal:
            return self.at
        return Position(self.at.file, self.at.line + 1 + line, self.indent + column + 1)
