"""What the proxy's filter host calls (`rust/python/src/host.rs`)."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pymesh.filters import loader

SERVED = ("on_request_headers", "on_response_headers")
"""The hooks that the proxy calls."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A filter as the proxy uses it."""

    on_request_headers: Callable[..., Any] | None
    on_response_headers: Callable[..., Any] | None
    when: list[tuple[str, str, str]]
    report: Callable[[BaseException], None]
    capsule: object | None = None
    """Hooks in C, which take the place of those above (`rust/python/src/compiled.rs`)."""
    instance: object | None = None


def load(class_path: str, source: str, config: Mapping[str, Any]) -> Loaded:
    """Loads a filter and sets it up; `FilterError` says why it cannot be used."""
    alone = None if source else loader.capsule(class_path)
    if alone is not None:
        return Loaded(None, None, [], _report(class_path), alone)
    instance = loader.load(class_path, source, config)
    traits = loader.describe(type(instance), class_path)
    refuse_unserved(class_path, traits)
    try:
        instance.setup()
    except Exception as error:
        raise loader.FilterError(f"`{class_path}.setup` fails: {type(error).__name__}: {error}") from error

    def hook(name: str) -> Callable[..., Any] | None:
        return getattr(instance, name) if name in traits.hooks else None

    return Loaded(
        on_request_headers=hook("on_request_headers"),
        on_response_headers=hook("on_response_headers"),
        when=[(condition.name, condition.test, condition.value) for condition in traits.when],
        report=_report(class_path),
        # Not an inherited one: a class in Python has its own hooks.
        capsule=vars(type(instance)).get(loader.CAPSULE),
        instance=instance,
    )


def refuse_unserved(class_path: str, traits: loader.Traits) -> None:
    """Raises `FilterError` for what the contract has and the proxy does not do."""
    if traits.lane != "inline":
        raise loader.FilterError(f"`{class_path}` runs in lane `{traits.lane}`, which this proxy does not serve yet")
    if traits.wants:
        raise loader.FilterError(f"`{class_path}.wants`: this proxy does not look at that yet\nhint: write `when`")
    for unserved in [hook for hook in traits.hooks if hook not in SERVED]:
        hint = f"it calls {', '.join(SERVED)}"
        raise loader.FilterError(f"`{class_path}.{unserved}`: this proxy does not call that hook yet\nhint: {hint}")


def _report(class_path: str) -> Callable[[BaseException], None]:
    def report(error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        print(f"filter {class_path} has failed:\n{text}", file=sys.stderr, end="", flush=True)  # noqa: T201

    return report
