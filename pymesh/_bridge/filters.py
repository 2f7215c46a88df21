"""What the proxy's filter host calls (`rust/python/src/host.rs`)."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pymesh._bridge.log import log
from pymesh.filters import LogRecord, loader

__all__ = ["Loaded", "LogRecord", "load"]

_LIFE_SECONDS = 10.0
"""As long as `async def setup` or `close` may take."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A filter as the proxy uses it."""

    hooks: Mapping[str, Callable[..., Any]]
    """The hooks that it has."""
    when: list[tuple[str, str, str]]
    wants: list[str]
    max_body: int
    lane: str
    awaited: list[str]
    """Those of the hooks that are `async def`."""
    report: Callable[[str, str, BaseException], None]
    """Tells the log what a hook has raised, and for which request."""
    close: Callable[[], None]
    """Ends the instance; raises nothing."""
    capsule: object | None = None
    """Hooks in C, which take the place of those above (`rust/python/src/compiled.rs`)."""
    instance: object | None = None


class Runner(Protocol):
    """Who runs what is `async def`."""

    def execute(self, coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """Runs it and waits for it."""


def load(class_path: str, source: str, config: Mapping[str, Any], runner: Runner | None = None) -> Loaded:
    """Loads a filter and sets it up; `FilterError` says why it cannot be used. `runner` is that of a simulated proxy;
    without one it is the process's."""
    alone = None if source else loader.capsule(class_path)
    if alone is not None:
        return Loaded({}, [], [], 0, "inline", [], _report(class_path), lambda: None, alone)
    instance = loader.load(class_path, source, config)
    traits = loader.describe(type(instance), class_path)
    try:
        _live(instance.setup, runner)
    except Exception as error:
        raise loader.FilterError(f"`{class_path}.setup` fails: {type(error).__name__}: {error}") from error
    report = _report(class_path)

    def close() -> None:
        try:
            _live(instance.close, runner)
        except (Exception, SystemExit) as error:
            report("close", "", error)

    return Loaded(
        hooks={hook: getattr(instance, hook) for hook in traits.hooks},
        when=[(condition.name, condition.test, condition.value) for condition in traits.when],
        wants=list(traits.wants),
        max_body=traits.max_body,
        lane=traits.lane,
        awaited=[hook for hook, is_async in traits.hooks.items() if is_async],
        report=report,
        close=close,
        # Not an inherited one: a class in Python has its own hooks.
        capsule=vars(type(instance)).get(loader.CAPSULE),
        instance=instance,
    )


def _report(class_path: str) -> Callable[[str, str, BaseException], None]:
    def report(hook: str, request_id: str, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        which = f" (request {request_id})" if request_id else ""
        log(f"filter {class_path} has failed in {hook}{which}:\n{text}")

    return report


def _live(step: Callable[[], Any], runner: Runner | None) -> None:
    """Calls `setup` or `close`; an `async def` one on the loop of its lane."""
    made = step()
    if inspect.iscoroutine(made):
        if runner is None:
            from pymesh._bridge import lane  # a proxy without lane `async` needs no event loop

            runner = lane.runner()
        runner.execute(made, _LIFE_SECONDS)
