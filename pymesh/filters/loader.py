"""From a filter's name and source to an instance. Pure Python: the proxy and the test harness load alike."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types
from collections.abc import Mapping
from typing import Any

from pymesh.filters.api import CONTRACT_VERSION, HttpFilter, When


class FilterError(Exception):
    """A filter cannot be used; the text says which, why, and what to do."""


def load(class_path: str, source: str, config: Mapping[str, Any]) -> HttpFilter[Any]:
    """Makes an instance of `module:Class`.

    `source` is the text of the module; empty means that the module is imported. A source is run in a module
    of its own each time, so that two generations of a filter never share state.
    """
    module_name, separator, class_name = class_path.partition(":")
    if not separator or not module_name or not class_name:
        raise FilterError(f"`{class_path}` does not name a filter\nhint: write `module:Class`")
    module = _run(module_name, source) if source else _import(module_name)
    cls = getattr(module, class_name, None)
    if cls is None:
        known = [name for name, value in vars(module).items() if _is_filter(value)]
        hint = f"it has {', '.join(known)}" if known else "it has no subclass of HttpFilter"
        raise FilterError(f"module `{module_name}` has no class `{class_name}`\nhint: {hint}")
    if not _is_filter(cls):
        raise FilterError(f"`{class_path}` is not a filter\nhint: derive it from pymesh.filters.HttpFilter")
    _check_version(class_path, cls.api)
    instance: HttpFilter[Any] = cls(_configure(class_path, cls.Config, config))
    return instance


def conditions(cls: type[HttpFilter[Any]]) -> list[tuple[str, str, str]]:
    """The class's `when`, as the proxy takes it."""
    for condition in cls.when:
        if not isinstance(condition, When):
            raise FilterError(f"`{cls.__name__}.when` holds {condition!r}\nhint: write When(name, test, value)")
    return [(condition.name, condition.test, condition.value) for condition in cls.when]


def overrides(instance: HttpFilter[Any], hook: str) -> bool:
    """True if the filter has a hook of its own."""
    return getattr(type(instance), hook) is not getattr(HttpFilter, hook)


def _run(name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name)
    # Dataclasses and pickling look their module up by name while the class body runs.
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(compile(source, f"<filter {name}>", "exec"), module.__dict__)
    except Exception as error:
        raise FilterError(f"the source of `{name}` fails: {type(error).__name__}: {error}") from error
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
    return module


def _import(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = "install it where the proxy runs, or give the filter's source in the resource"
        raise FilterError(f"module `{name}` cannot be imported: {error}\nhint: {hint}") from error


def _is_filter(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, HttpFilter) and value is not HttpFilter


def _check_version(class_path: str, version: str) -> None:
    major = CONTRACT_VERSION.partition(".")[0]
    if version.partition(".")[0] != major:
        raise FilterError(
            f"`{class_path}` is written for contract {version}, this proxy speaks {CONTRACT_VERSION}\n"
            f"hint: use a release of pymesh that speaks {version}"
        )


def _configure(class_path: str, schema: type[Any] | None, config: Mapping[str, Any]) -> Any:
    if schema is None:
        return dict(config)
    if not dataclasses.is_dataclass(schema):
        raise FilterError(f"`{class_path}`: Config must be a dataclass")
    known = {field.name for field in dataclasses.fields(schema)}
    unknown = sorted(set(config) - known)
    if unknown:
        raise FilterError(
            f"`{class_path}` does not know the setting {', '.join(unknown)}\n"
            f"hint: it knows {', '.join(sorted(known)) or 'none'}"
        )
    try:
        return schema(**config)
    except (TypeError, ValueError) as error:
        raise FilterError(f"`{class_path}` refuses its configuration: {error}") from error
