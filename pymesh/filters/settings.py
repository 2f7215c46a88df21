"""From the resource's `config` to a filter's `Config`: values are converted and checked by the annotations.

JSON knows fewer types than Python: a whole number may have arrived as a float, a time is text (`20ms`, `1s`,
`1h30m`), tuples and sets are lists. What does not fit is told with the path of the setting, everything at once.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")

SUPPORTED = (
    "str, int, float, bool, timedelta, Any, Literal, Optional, tuple, list, set, frozenset, dict and dataclasses"
)


class SettingsError(Exception):
    """Some settings do not fit; each problem says which, why, and what to do."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _MisfitError(Exception):
    """A value that is not of the wanted type."""


def fill(schema: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of the dataclass, from plain values. Raises `SettingsError`."""
    problems: list[str] = []
    made = _dataclass(schema, values, "", problems)
    if problems:
        raise SettingsError(problems)
    return made


def _dataclass(schema: type[Any], values: Mapping[str, Any], path: str, problems: list[str]) -> Any:
    hints = typing.get_type_hints(schema)
    fields = {field.name: field for field in dataclasses.fields(schema) if field.init}
    known = f"hint: it knows {', '.join(sorted(fields)) or 'none'}"
    before = len(problems)
    for name in sorted(set(values) - set(fields)):
        problems.append(f"does not know the setting `{_join(path, name)}`\n{known}")
    given: dict[str, Any] = {}
    for name, field in fields.items():
        at = _join(path, name)
        if name in values:
            given[name] = _convert(hints[name], values[name], at, problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"needs the setting `{at}`\nhint: it is {_told(hints[name])}")
    if len(problems) > before:
        return None
    try:
        return schema(**given)
    except (TypeError, ValueError) as error:
        problems.append(f"refuses {f'`{path}`' if path else 'its configuration'}: {error}")
        return None


def _convert(wanted: Any, value: Any, path: str, problems: list[str]) -> Any:
    try:
        return _value(wanted, value, path, problems)
    except _MisfitError as misfit:
        hint = f"\nhint: {misfit}" if str(misfit) else ""
        problems.append(f"wants `{path}` to be {_told(wanted)}, not {_shown(value)}{hint}")
        return None


def _value(wanted: Any, value: Any, path: str, problems: list[str]) -> Any:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        return _optional(wanted, arguments, value, path, problems)
    if origin is typing.Literal:
        return _literal(arguments, value)
    kind = origin or wanted
    if kind in (list, set, frozenset, tuple):
        return _sequence(kind, arguments, value, path, problems)
    if kind in (dict, Mapping):
        return _mapping(arguments, value, path, problems)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise _MisfitError
        return _dataclass(kind, value, path, problems)
    convert = _PLAIN.get(wanted)
    if convert is None:
        raise SettingsError([f"has the setting `{path}` of type {_told(wanted)}\nhint: settings may be {SUPPORTED}"])
    return convert(value)


def _optional(wanted: Any, arguments: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    others = [argument for argument in arguments if argument is not type(None)]
    if len(others) != 1 or len(arguments) != 2:
        raise SettingsError([f"has the setting `{path}` of type {_told(wanted)}\nhint: settings may be {SUPPORTED}"])
    return None if value is None else _value(others[0], value, path, problems)


def _literal(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        # True is 1 to Python, and is not to whoever writes a resource.
        if choice == value and isinstance(choice, bool) == isinstance(value, bool):
            return choice
    raise _MisfitError


def _sequence(kind: Any, arguments: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, list | tuple | set | frozenset):
        raise _MisfitError
    values = list(value)
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(values) != len(arguments):
            raise _MisfitError
        wanted = list(arguments)
    else:
        wanted = [arguments[0] if arguments else Any] * len(values)
    before = len(problems)
    pairs = enumerate(zip(wanted, values, strict=True))
    made = [_convert(one, item, f"{path}[{at}]", problems) for at, (one, item) in pairs]
    return kind(made) if len(problems) == before else None


def _mapping(arguments: tuple[Any, ...], value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        raise _MisfitError
    key_type, value_type = arguments or (Any, Any)
    before = len(problems)
    made = [
        (_convert(key_type, key, f"{path}.{key}", problems), _convert(value_type, item, f"{path}.{key}", problems))
        for key, item in value.items()
    ]
    return dict(made) if len(problems) == before else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _MisfitError
    return value


def _whole(value: Any) -> int:
    # Numbers of a resource travel as floats.
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value in _INFINITE:
        raise _MisfitError
    if value != int(value):
        raise _MisfitError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _MisfitError
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _MisfitError
    return value


def _time(value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    parts = _PART.findall(value) if isinstance(value, str) and re.fullmatch(f"(?:{_PART.pattern})+", value) else []
    if not parts:
        raise _MisfitError('write a number and its unit: "20ms", "1s", "1m30s"')
    try:
        return timedelta(seconds=sum(float(number) * UNITS[unit] for number, unit in parts))
    except OverflowError:
        raise _MisfitError("it is too long") from None


_INFINITE = (float("inf"), float("-inf"))

_PLAIN: dict[Any, Callable[[Any], Any]] = {
    str: _text,
    int: _whole,
    float: _number,
    bool: _truth,
    timedelta: _time,
    Any: lambda value: value,
}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _told(wanted: Any) -> str:
    """A type as its author wrote it."""
    if isinstance(wanted, type) and typing.get_origin(wanted) is None:
        return wanted.__name__
    return re.sub(r"\b(?:typing|datetime|collections\.abc)\.", "", str(wanted))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
