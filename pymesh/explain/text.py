"""A story as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from pymesh.explain.story import Hop, Story

_INDENT = " " * 4
_WIDTH = 10


def render(story: Story) -> str:
    """The whole of it."""
    return "\n".join(_lines(story)) + "\n"


def _lines(story: Story) -> Iterator[str]:
    asked = story.request
    who = asked["identity"] or asked["from"]
    yield f"{asked['method']} {asked['target']} to {asked['service']}:{asked['port']} from {who}"
    yield ""
    number = 0
    for hop in story.hops:
        number += hop.is_on_the_way
        yield from _hop(hop, f"{number}" if hop.is_on_the_way else "-")
    if story.hops:
        yield ""
    yield from _answer(story)
    yield f"{'why':<{_WIDTH}} {story.why}"
    for one in story.change:
        yield f"{'change':<{_WIDTH}} {one}"


def _hop(hop: Hop, number: str) -> Iterator[str]:
    aside = "" if hop.is_on_the_way else " (beside the way: asked by a filter, given a copy, or tried in vain)"
    yield f"{number} {hop.proxy}, {hop.kind}{aside}"
    for step in hop.steps:
        at = f"  {step.at}" if step.at else ""
        yield f"{_INDENT}{step.what:<{_WIDTH}} {step.text}{at}"


def _answer(story: Story) -> Iterator[str]:
    said = f"  {story.details}" if story.details else ""
    flags = f"  {story.flags}" if story.flags not in ("", "-", "None") else ""
    if story.status is None:
        yield f"{'answer':<{_WIDTH}} none: the connection is closed{said}{flags}"
        return
    body = f" {story.body.splitlines()[0][:80]!r}" if story.body else ""
    after = f" after {story.seconds:g} s" if story.seconds else ""
    yield f"{'answer':<{_WIDTH}} {story.status}{body} by {story.answered_by}{after}{said}{flags}"
