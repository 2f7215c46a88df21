"""From a filter's name and source to an instance, and what the proxy has to know of it without entering Python.

Pure Python: the proxy, the test harness and `pymesh filter` load alike. Everything that can be wrong with a
filter before its first request is told here (`FilterError`).
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import linecache
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from pymesh.filters import settings
from pymesh.filters.api import CONTRACT_VERSION, HttpFilter, When

HOOKS = (
    "on_request_headers",
    "on_request_body",
    "on_request_chunk",
    "on_request_trailers",
    "on_response_headers",
    "on_response_body",
    "on_response_chunk",
    "on_response_trailers",
    "on_log",
)
"""All hooks of the contract, in the order of their first call."""

_LANES = ("inline", "async")
_TESTS: tuple[str, ...] = get_args(get_type_hints(When)["test"])
_PSEUDO_HEADERS = (":method", ":path", ":authority", ":scheme")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

# A module under way stands in `sys.modules` under its own name; two workers must not do that at once.
_loading = threading.RLock()


class FilterError(Exception):
    """A filter cannot be used; the text says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a filter's class says of it."""

    hooks: Mapping[str, bool]
    """The hooks that it overrides, each with whether it is `async def`."""
    lane: Literal["inline", "async"]
    when: tuple[When, ...]
    wants: tuple[str, ...]
    """Header names in lower case."""
    max_body: int


CAPSULE = "__pymesh_filter__"
"""Where a compiled class has its hooks in C (`pymesh_filter.h`)."""


def capsule(class_path: str) -> object | None:
    """What `module:Name` names, if that is a compiled filter without a class: written in C."""
    module_name, _, name = class_path.partition(":")
    with _loading:
        found = getattr(_import(module_name), name, None) if module_name and name else None
    return found if type(found).__name__ == "PyCapsule" else None


def load(class_path: str, source: str, config: Mapping[str, Any]) -> HttpFilter[Any]:
    """Makes an instance of `module:Class`; its `setup` has not been called.

    `source` is the text of the module; empty means that the module is imported. A source is run in a module
    of its own each time, so that two generations of a filter never share state.
    """
    module_name, separator, class_name = class_path.partition(":")
    if not separator or not module_name or not class_name:
        raise FilterError(f"`{class_path}` does not name a filter\nhint: write `module:Class`")
    with _loading:
        module = _run(module_name, source) if source else _import(module_name)
        cls = getattr(module, class_name, None)
        if cls is None:
            known = [name for name, value in vars(module).items() if _is_filter(value)]
            hint = f"it has {', '.join(known)}" if known else "it has no subclass of HttpFilter"
            raise FilterError(f"module `{module_name}` has no class `{class_name}`\nhint: {hint}")
        if not _is_filter(cls):
            raise FilterError(f"`{class_path}` is not a filter\nhint: derive it from pymesh.filters.HttpFilter")
        describe(cls, class_path)
        # Annotations are resolved in the module, which they may name as text.
        with _standing(module_name, module):
            settled = _configure(class_path, cls.Config, config)
    return _instance(class_path, cls, settled)


def make(cls: type[HttpFilter[Any]], config: Mapping[str, Any]) -> HttpFilter[Any]:
    """Makes an instance of a class that is at hand, as in its tests; its `setup` has not been called."""
    describe(cls)
    return _instance(cls.__name__, cls, _configure(cls.__name__, cls.Config, config))


def _instance(name: str, cls: type[HttpFilter[Any]], settled: Any) -> HttpFilter[Any]:
    try:
        return cls(settled)
    except Exception as error:
        raise FilterError(f"`{name}` cannot be made: {type(error).__name__}: {error}") from error


def describe(cls: type[HttpFilter[Any]], class_path: str = "") -> Traits:
    """What the class says; `FilterError` if that is no filter."""
    name = class_path or cls.__name__
    _check_version(name, cls.api)
    if cls.lane not in _LANES:
        raise FilterError(f'`{name}` has the lane {cls.lane!r}\nhint: write lane = "inline" or lane = "async"')
    # Their author may not have had a type checker.
    most: Any = cls.max_body
    if isinstance(most, bool) or not isinstance(most, int) or most < 0:
        raise FilterError(f"`{name}` has max_body = {most!r}\nhint: write a number of octets: 64 * 1024")
    hooks = {hook: _checked(cls, hook, name) for hook in HOOKS if _overrides(cls, hook)}
    for direction in ("request", "response"):
        if {f"on_{direction}_body", f"on_{direction}_chunk"} <= set(hooks):
            raise FilterError(
                f"`{name}` has on_{direction}_body and on_{direction}_chunk\n"
                "hint: a body is seen whole or as it streams: keep one of them"
            )
    for life in ("setup", "close"):
        if _overrides(cls, life):
            _checked(cls, life, name)
    _find_misspelt(cls, name)
    return Traits(hooks, cls.lane, _conditions(cls, name), _wanted(cls, name), cls.max_body)


def is_coroutine(function: Callable[..., Any]) -> bool:
    """True for `async def`, also if it was compiled."""
    return inspect.iscoroutinefunction(function) or getattr(function, "_is_coroutine", None) is not None


def _overrides(cls: type[HttpFilter[Any]], name: str) -> bool:
    return getattr(cls, name) is not getattr(HttpFilter, name)


def _checked(cls: type[HttpFilter[Any]], hook: str, name: str) -> bool:
    """Whether the hook is `async def`."""
    function = getattr(cls, hook)
    if not callable(function):
        raise FilterError(f"`{name}.{hook}` is {function!r}\nhint: write a function, or leave it out")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise FilterError(f"`{name}.{hook}` is a generator\nhint: a hook returns its result; write no `yield`")
    is_async = is_coroutine(function)
    if is_async and cls.lane == "inline":
        raise FilterError(
            f"`{name}.{hook}` is a coroutine function\n"
            'hint: the inline lane calls plain functions; write `def`, or set lane = "async"'
        )
    if is_async and hook == "on_log":
        raise FilterError(f"`{name}.on_log` is a coroutine function\nhint: on_log is plain in each lane; write `def`")
    wanted = list(inspect.signature(getattr(HttpFilter, hook)).parameters)
    try:
        inspect.signature(function).bind(*wanted)
    except TypeError:
        raise FilterError(f"`{name}.{hook}` cannot be called\nhint: write def {hook}({', '.join(wanted)})") from None
    except ValueError:
        pass  # A compiled function need not tell.
    return is_async


def _find_misspelt(cls: type[HttpFilter[Any]], name: str) -> None:
    for own in {attribute for base in cls.__mro__ for attribute in vars(base)} - set(vars(HttpFilter)):
        near = difflib.get_close_matches(own, HOOKS, n=1, cutoff=0.9) if own.startswith("on_") else []
        if near:
            raise FilterError(f"`{name}.{own}` is not a hook\nhint: did you mean {near[0]}?")


def _conditions(cls: type[HttpFilter[Any]], name: str) -> tuple[When, ...]:
    if not isinstance(cls.when, tuple | list):
        raise FilterError(f"`{name}.when` is {cls.when!r}\nhint: write a tuple: (When(name, test, value),)")
    for condition in cls.when:
        if not isinstance(condition, When):
            raise FilterError(f"`{name}.when` holds {condition!r}\nhint: write When(name, test, value)")
        if condition.test not in _TESTS:
            raise FilterError(f"`{name}.when` has the test `{condition.test}`\nhint: it may be {', '.join(_TESTS)}")
        if condition.name not in _PSEUDO_HEADERS and not _TOKEN.fullmatch(condition.name):
            known = ", ".join(_PSEUDO_HEADERS)
            raise FilterError(f"`{name}.when` tests `{condition.name}`\nhint: it may be a header's name, {known}")
    return tuple(cls.when)


def _wanted(cls: type[HttpFilter[Any]], name: str) -> tuple[str, ...]:
    if not isinstance(cls.wants, tuple | list):
        raise FilterError(f'`{name}.wants` is {cls.wants!r}\nhint: write a tuple: ("x-api-key",)')
    headers: tuple[Any, ...] = cls.wants
    for header in headers:
        if not isinstance(header, str) or not _TOKEN.fullmatch(header):
            raise FilterError(f"`{name}.wants` holds {header!r}\nhint: write names of request headers")
    return tuple(header.lower() for header in headers)


def _run(name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name)
    file = f"<filter {name}>"
    # So that stacks show its lines.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    with _standing(name, module):
        try:
            exec(compile(source, file, "exec"), module.__dict__)
        except (Exception, SystemExit) as error:
            raise FilterError(f"the source of `{name}` fails: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def _standing(name: str, module: types.ModuleType) -> Iterator[None]:
    """Dataclasses, annotations and pickling look a module up by its name."""
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        yield
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


def _import(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = "install it where the proxy runs, or give the filter's source in the resource"
        raise FilterError(f"module `{name}` cannot be imported: {error}\nhint: {hint}") from error
    except (Exception, SystemExit) as error:
        raise FilterError(f"module `{name}` fails: {type(error).__name__}: {error}") from error


def _is_filter(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, HttpFilter) and value is not HttpFilter


def _check_version(name: str, version: Any) -> None:
    parts = version.split(".") if isinstance(version, str) else []
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise FilterError(f'`{name}` has api = {version!r}\nhint: write api = "{CONTRACT_VERSION}", or leave it out')
    own_major, own_minor = CONTRACT_VERSION.split(".")
    if parts[0] != own_major or int(parts[1]) > int(own_minor):
        raise FilterError(
            f"`{name}` is written for contract {version}, this proxy speaks {CONTRACT_VERSION}\n"
            f"hint: use a release of pymesh that speaks {version}"
        )


def _configure(class_path: str, schema: type[Any] | None, config: Mapping[str, Any]) -> Any:
    if schema is None:
        return dict(config)
    if not dataclasses.is_dataclass(schema):
        raise FilterError(f"`{class_path}`: Config must be a dataclass\nhint: write @dataclass above it")
    try:
        return settings.fill(schema, config)
    except settings.SettingsError as error:
        raise FilterError("\n".join(f"`{class_path}` {problem}" for problem in error.problems)) from error
    except NameError as error:
        raise FilterError(f"`{class_path}`: an annotation of Config cannot be resolved: {error}") from error
