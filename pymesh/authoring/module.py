"""The source of the library: the author's file line for line, and behind it the hooks that are functions in C."""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from pymesh.authoring.hooks import STATE, Body, Kind, NeedsPythonError, Surroundings, rewrite
from pymesh.filters import HttpFilter, Reply

#: The hooks that the C interface has.
HOOKS: Mapping[str, Literal["Request", "Response"]] = {
    "on_request_headers": "Request",
    "on_response_headers": "Response",
}
_PLAIN: Mapping[Any, Kind] = {str: "text", int: "whole", float: "number", bool: "flag"}
_IN_C: Mapping[Kind, str] = {
    "text": "pymesh_native.Setting",
    "texts": "pymesh_native.Settings",
    "whole": "long long",
    "number": "double",
    "flag": "bint",
}


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook of a filter class, and its body in Cython, unless it needs the interpreter."""

    filter: str
    name: str
    line: int
    body: Body | None
    why_not: str = ""

    def __str__(self) -> str:
        return f"{self.filter}.{self.name}"


@dataclass(frozen=True, slots=True)
class Source:
    """A text for Cython."""

    text: str
    #: The author's lines.
    length: int
    #: Line of the text -> hook, and line of the author's file.
    lines: Mapping[int, tuple[Hook, int]] = field(default_factory=dict)


def hooks(tree: ast.Module, module: ModuleType) -> list[Hook]:
    """The hooks of all filters that the file defines, in its order."""
    found: list[Hook] = []
    constants = _constants(tree)
    replies = frozenset(name for name, value in vars(module).items() if value is Reply)
    for node in tree.body:
        cls = getattr(module, node.name, None) if isinstance(node, ast.ClassDef) else None
        if not isinstance(node, ast.ClassDef) or not isinstance(cls, type) or not issubclass(cls, HttpFilter):
            continue
        settings = {} if cls.Config is None else dict(_kinds(typing.get_type_hints(cls.Config, vars(module))))
        for function in node.body:
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or not function.name.startswith("on_"):
                continue
            if function.name in vars(HttpFilter):
                around = Surroundings(settings, constants, replies)
                found.append(_hook(node, cls, function, around))
    return found


def _hook(
    node: ast.ClassDef,
    cls: type[HttpFilter[Any]],
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    around: Surroundings,
) -> Hook:
    try:
        if cls.lane != "inline":
            raise NeedsPythonError(function, f"its lane is {cls.lane}")
        if function.name not in HOOKS:
            raise NeedsPythonError(function, "the C interface has no such hook")
        if node.decorator_list or sum(one.name == function.name for one in _functions(node)) > 1:
            raise NeedsPythonError(function, "class and hook are not written plainly")
        if isinstance(function, ast.AsyncFunctionDef):
            raise NeedsPythonError(function, "it is a coroutine function")
        if at := _changes_settings(node):
            raise NeedsPythonError(at, "self.config is changed while the filter runs")
        body = rewrite(function, HOOKS[function.name], around)
    except NeedsPythonError as error:
        return Hook(cls.__name__, function.name, error.line or function.lineno, None, str(error))
    return Hook(cls.__name__, function.name, function.lineno, body)


def _functions(node: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))


def _changes_settings(node: ast.ClassDef) -> ast.AST | None:
    """Where a method that is called after the filter was loaded sets a setting."""
    for function in _functions(node):
        for one in ast.walk(function) if function.name not in ("__init__", "setup") else ():
            if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store) and ".config" in ast.unparse(one):
                return one
    return None


def _constants(tree: ast.Module) -> dict[str, ast.Constant]:
    """Names that the module sets once, to a plain value."""
    times: dict[str, int] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Name(name, ast.Store() | ast.Del()):
                times[name] = times.get(name, 0) + 1
            case ast.Global(names):
                times |= dict.fromkeys(names, 2)
    found: dict[str, ast.Constant] = {}
    for statement in tree.body:
        match statement:
            case ast.Assign([ast.Name(name)], ast.Constant() as value) | ast.AnnAssign(
                ast.Name(name), _, ast.Constant() as value
            ) if times[name] == 1:
                found[name] = value
    return found


def _kinds(hints: Mapping[str, Any]) -> Iterator[tuple[str, Kind]]:
    """The settings that can be copied when the filter is loaded."""
    for name, hint in hints.items():
        arguments = typing.get_args(hint)
        chosen = typing.get_origin(hint) is Literal and all(isinstance(one, str) for one in arguments)
        if hint in _PLAIN:
            yield name, _PLAIN[hint]
        elif chosen or set(arguments) == {str, type(None)}:
            yield name, "text"
        elif typing.get_origin(hint) in (tuple, frozenset) and set(arguments) - {...} == {str}:
            yield name, "texts"


def write(author: str, found: list[Hook]) -> Source:
    """The text for Cython."""
    lines = author.splitlines()
    length = len(lines)
    compiled = [hook for hook in found if hook.body is not None]
    if not compiled:
        return Source("\n".join(lines) + "\n", length)
    lines += ["", "from pymesh.filters cimport native as pymesh_native"]
    lines += ["from cpython.pycapsule cimport PyCapsule_New as pymesh_capsule"]
    lines += ["from libc.string cimport memcpy as pymesh_memcpy", ""]
    at: dict[int, tuple[Hook, int]] = {}
    for name in dict.fromkeys(hook.filter for hook in compiled):
        own = [hook for hook in compiled if hook.filter == name]
        used = _used(own)
        lines += _state(name, used)
        for hook in own:
            lines += [_signature(hook)]
            at[len(lines)] = (hook, hook.line)
            for line in hook.body.lines if hook.body else ():
                lines += [line.text]
                at[len(lines)] = (hook, line.line)
            lines += _entry(hook)
        lines += _create(name, used)
        lines += _capsule(name, own)
    return Source("\n".join(lines) + "\n", length, at)


def _used(own: list[Hook]) -> dict[str, Kind]:
    """A setting that no compiled hook reads is not copied, and may be anything."""
    return {name: kind for hook in own if hook.body for name, kind in sorted(hook.body.settings.items())}


def _state(name: str, used: Mapping[str, Kind]) -> list[str]:
    fields = [f"    {_IN_C[kind]} own_{setting}" for setting, kind in used.items()]
    return [f"cdef cppclass pymesh_{name}:", *(fields or ["    char nothing"]), ""]


def _signature(hook: Hook) -> str:
    assert hook.body is not None
    message = f"pymesh_native.{HOOKS[hook.name]} {hook.body.message}"
    parameters = f"pymesh_{hook.filter} *{STATE}, {message}, pymesh_native.Context {hook.body.context}"
    return f"cdef int pymesh_{hook.filter}_{hook.name}({parameters}) noexcept nogil:"


def _entry(hook: Hook) -> list[str]:
    name = f"pymesh_{hook.filter}_{hook.name}"
    kind = HOOKS[hook.name]
    host, message = "const pymesh_native.pymesh_host *host", "pymesh_native.pymesh_message *message"
    return [
        "",
        f"cdef int {name}_entry(void *state, {host}, {message}) noexcept nogil:",
        f"    return pymesh_native.run[pymesh_{hook.filter}, pymesh_native.{kind}]({name}, state, host, message)",
        "",
    ]


def _create(name: str, used: Mapping[str, Kind]) -> list[str]:
    lines = [
        f"cdef void pymesh_{name}_destroy(void *state) noexcept nogil:",
        f"    cdef pymesh_{name} *own = <pymesh_{name} *> state",
        "    del own",
        "",
        f"cdef void *pymesh_{name}_create(const pymesh_native.pymesh_creation *creation) noexcept:",
        f"    cdef pymesh_{name} *state = new pymesh_{name}()",
        "    cdef bytes octets",
        "    try:",
        *(["        config = (<object> creation.instance).config"] if used else ["        pass"]),
    ]
    for setting, kind in used.items():
        value = f"config.{setting}"
        match kind:
            case "text":
                lines += [f"        if {value} is not None:", f'            octets = {value}.encode("latin-1")']
                lines += [f"            state.own_{setting}.set(<const char *> octets, len(octets))"]
            case "texts":
                lines += [f"        for one in {value}:", '            octets = one.encode("latin-1")']
                lines += [f"            state.own_{setting}.add(<const char *> octets, len(octets))"]
            case _:
                lines += [f"        state.own_{setting} = {value}"]
    return [
        *lines,
        "    except Exception as error:",
        "        del state",
        '        octets = f"{type(error).__name__}: {error}".encode()[:creation.error_size - 1]',
        "        pymesh_memcpy(creation.error, <const char *> octets, len(octets))",
        "        creation.error[len(octets)] = 0",
        "        return NULL",
        "    return state",
        "",
    ]


def _capsule(name: str, own: list[Hook]) -> list[str]:
    filled = f"pymesh_{name}_filter"
    return [
        f"cdef pymesh_native.pymesh_filter {filled}",
        f"{filled}.size = sizeof(pymesh_native.pymesh_filter)",
        f"{filled}.create = pymesh_{name}_create",
        f"{filled}.destroy = pymesh_{name}_destroy",
        *(f"{filled}.{hook.name} = pymesh_{name}_{hook.name}_entry" for hook in own),
        f'{name}.__pymesh_filter__ = pymesh_capsule(&{filled}, "pymesh.filter.v1", NULL)',
        "",
    ]
