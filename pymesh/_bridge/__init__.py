"""The only importer of the extension module `pymesh._proxy`.

Everything else in `pymesh` uses the functions here. No promise is made about their names between releases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType


class ProxyError(Exception):
    """The proxy could not be run. The text has one problem a line."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """How the process takes over from another one, and how it ends."""

    drain_seconds: float = 30.0
    drain_accept_seconds: float = 0.0
    parent_shutdown_seconds: float = 900.0
    upgrade_socket: Path | None = None
    pid_file: Path | None = None


def run(config: Path, *, concurrency: int | None = None, lifecycle: Lifecycle) -> None:
    """Runs the proxy until SIGTERM or SIGINT has been obeyed, or a successor has taken over."""
    try:
        _extension().run(
            config,
            concurrency=concurrency,
            drain_seconds=lifecycle.drain_seconds,
            drain_accept_seconds=lifecycle.drain_accept_seconds,
            parent_shutdown_seconds=lifecycle.parent_shutdown_seconds,
            upgrade_socket=lifecycle.upgrade_socket,
            pid_file=lifecycle.pid_file,
        )
    except RuntimeError as error:
        raise ProxyError(str(error)) from None


def validate(config: Path) -> list[str]:
    """Everything that is wrong with a bootstrap file."""
    problems: list[str] = _extension().validate(config)
    return problems


def version() -> str:
    """Version of the data plane."""
    text: str = _extension().version()
    return text


def bench(plan: object, watch: Callable[[int, int], bool]) -> dict[str, Any]:
    """Runs the load generator (`rust/load`); the texts of `ConnectionError` and `ValueError` are for people."""
    try:
        counts: dict[str, Any] = _extension().bench(plan, watch)
    except RuntimeError as error:
        raise ProxyError(str(error)) from None
    return counts


def time_hooks(
    class_path: str, source: str, config: str, request: object, response: object, *, batches: int
) -> list[tuple[str, bool, list[float]]]:
    """For each hook of heads: whether it is compiled, and nanoseconds for a call, a figure for each batch of calls."""
    try:
        timed: list[tuple[str, bool, list[float]]] = _extension().time_hooks(
            class_path, source, config, request, response, batches
        )
    except RuntimeError as error:
        raise ProxyError(str(error)) from None
    return timed


def _extension() -> ModuleType:
    try:
        from pymesh import _proxy
    except ImportError as error:
        raise ProxyError(
            f"the data plane cannot be loaded: {error}\n"
            "hint: install the wheel for this platform and Python version, or build one with `maturin build`"
        ) from None
    return _proxy
