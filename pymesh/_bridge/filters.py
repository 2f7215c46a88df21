"""What the proxy's filter host calls (`rust/python/src/host.rs`)."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pymesh.filters import LogRecord, loader

__all__ = ["Loaded", "LogRecord", "load", "refuse_unserved"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A filter as the proxy uses it."""

    hooks: Mapping[str, Callable[..., Any]]
    """The hooks that it has."""
    when: list[tuple[str, str, str]]
    wants: list[str]
    max_body: int
    report: Callable[[str, str, BaseException], None]
    """Tells the log what a hook has raised, and for which request."""
    close: Callable[[], Any]
    capsule: object | None = None
    """Hooks in C, which take the place of those above (`rust/python/src/compiled.rs`)."""
    instance: object | None = None


def load(class_path: str, source: str, config: Mapping[str, Any]) -> Loaded:
    """Loads a filter and sets it up; `FilterError` says why it cannot be used."""
    alone = None if source else loader.capsule(class_path)
    if alone is not None:
        return Loaded({}, [], [], 0, _report(class_path), lambda: None, alone)
    instance = loader.load(class_path, source, config)
    traits = loader.describe(type(instance), class_path)
    refuse_unserved(class_path, traits)
    try:
        instance.setup()
    except Exception as error:
        raise loader.FilterError(f"`{class_path}.setup` fails: {type(error).__name__}: {error}") from error
    return Loaded(
        hooks={hook: getattr(instance, hook) for hook in traits.hooks},
        when=[(condition.name, condition.test, condition.value) for condition in traits.when],
        wants=list(traits.wants),
        max_body=traits.max_body,
        report=_report(class_path),
        close=instance.close,
        # Not an inherited one: a class in Python has its own hooks.
        capsule=vars(type(instance)).get(loader.CAPSULE),
        instance=instance,
    )


def refuse_unserved(class_path: str, traits: loader.Traits) -> None:
    """Raises `FilterError` for what the contract has and the proxy does not do."""
    if traits.lane != "inline":
        raise loader.FilterError(f"`{class_path}` runs in lane `{traits.lane}`, which this proxy does not serve yet")


def _report(class_path: str) -> Callable[[str, str, BaseException], None]:
    def report(hook: str, request_id: str, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        which = f" (request {request_id})" if request_id else ""
        print(f"filter {class_path} has failed in {hook}{which}:\n{text}", file=sys.stderr, end="", flush=True)  # noqa: T201

    return report
