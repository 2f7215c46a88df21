"""What the proxy's filter host calls (`rust/python/src/host.rs`)."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pymesh.filters import loader


@dataclass(frozen=True, slots=True)
class Loaded:
    """A filter as the proxy uses it."""

    on_request_headers: Callable[..., Any] | None
    on_response_headers: Callable[..., Any] | None
    when: list[tuple[str, str, str]]
    report: Callable[[BaseException], None]


def load(class_path: str, source: str, config: Mapping[str, Any]) -> Loaded:
    """Loads a filter; `FilterError` says why it cannot be used."""
    instance = loader.load(class_path, source, config)

    def hook(name: str) -> Callable[..., Any] | None:
        if not loader.overrides(instance, name):
            return None
        bound: Callable[..., Any] = getattr(instance, name)
        if inspect.iscoroutinefunction(bound):
            raise loader.FilterError(
                f"`{class_path}.{name}` is a coroutine function\n"
                "hint: the inline lane calls plain functions; write `def`"
            )
        return bound

    def report(error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        print(f"filter {class_path} has failed:\n{text}", file=sys.stderr, end="", flush=True)  # noqa: T201

    return Loaded(hook("on_request_headers"), hook("on_response_headers"), loader.conditions(type(instance)), report)
