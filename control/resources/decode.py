"""From YAML nodes to typed values: a class's annotations are the schema of its document.

Every class that :func:`model` makes can be decoded. Field names are camel case in YAML. Nothing is
ignored: a key that the class does not have is an error, and a key that Istio has but we do not is refused
by name (``REFUSED``). All errors go to one report; a value with errors inside decodes to ``BAD``.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
)

import yaml

from pymesh.control.resources.diagnostics import Position, Report, did_you_mean
from pymesh.control.resources.embedded import Text

T = TypeVar("T")

#: In place of a value with errors in it.
BAD: Final = object()

NOT_YET = "not supported yet"


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, both included."""

    low: int
    high: int


@dataclass(frozen=True)
class Words:
    """Of a word that is one of several: it may be written in small letters, too, and there are ``others`` for it."""

    others: tuple[tuple[str, str], ...] = ()

    def meant(self, written: str) -> str:
        """The word that is meant."""
        return dict(self.others).get(written.upper(), written.upper())


PortNumber = Annotated[int, Range(1, 65535)]
Weight = Annotated[int, Range(0, 1_000_000)]


def key(name: str, *, default: Any = dataclasses.MISSING) -> Any:
    """A field whose YAML key is not its name in camel case."""
    return field(default=default, metadata={"key": name})


def derived(default: Any) -> Any:
    """A field that no YAML key sets: what is read afterwards."""
    return field(default=default, metadata={"derived": True}, repr=False)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field, key, derived))
def model(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass that YAML decodes into."""
    return dataclass(frozen=True, kw_only=True)(cls)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a value finds wrong with itself: at which field ("" for the whole), what, and the remedy."""

    field: str
    message: str
    hint: str = ""
    #: Where, if that is further inside.
    at: Position | None = None


@model
class Located:
    """A value that remembers where it and its fields stand."""

    #: Keys that Istio or Kubernetes have and we refuse, with what to do instead.
    REFUSED: ClassVar[Mapping[str, str]] = {}
    #: Whether what stands in it is no one's business: an error then tells the place, and never quotes.
    CONFIDENTIAL: ClassVar[bool] = False
    #: Whether it is read in part: what else is in it is somebody else's business, and not looked at.
    PARTIAL: ClassVar[bool] = False

    at: Position = field(default=Position("<built in>"), compare=False, repr=False)
    #: YAML key -> position of its value.
    where: Mapping[str, Position] = field(default_factory=dict, compare=False, repr=False)

    def place(self, name: str) -> Position:
        """Where the value of the YAML key ``name`` stands, or this value if the key is not there."""
        return self.where.get(name, self.at)

    def problems(self) -> Iterator[Problem]:
        """What is wrong beyond the types."""
        return iter(())

    def present(self, *names: str) -> list[str]:
        """Which of the YAML keys are there."""
        return [name for name in names if name in self.where]


def exactly_one(value: Located, *names: str) -> Iterator[Problem]:
    """A problem unless exactly one of the keys is there."""
    found = value.present(*names)
    if len(found) > 1:
        yield Problem(found[1], f"{' and '.join(map(repr, found))} exclude each other", "keep one of them")
    elif not found:
        yield Problem("", f"one of {', '.join(map(repr, names))} is needed")


class Decoder:
    """Decodes the nodes of one file, or of a document within one."""

    def __init__(self, file: str, report: Report, within: Text | None = None) -> None:
        self._file = file
        self._report = report
        self._within = within
        #: Whether what is wrong may be quoted: not where secrets stand.
        self._quotes = True

    def position(self, node: yaml.Node) -> Position:
        """Where the node starts."""
        return self.placed(node.start_mark)

    def placed(self, mark: yaml.Mark) -> Position:
        """Where a mark of the parser is in the file."""
        if self._within is not None:
            return self._within.position(mark.line, mark.column)
        return Position(self._file, mark.line + 1, mark.column + 1)

    def mapping(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Keys of a mapping, each with its key node and value node. Keys are strings and occur once."""
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                self._report.error(self.position(name), "a key must be a string")
            elif name.value in found:
                first = self.position(found[name.value][0])
                self._report.error(
                    self.position(name), f"{name.value!r} is here twice", f"the first is in line {first.line}"
                )
            else:
                found[name.value] = (name, value)
        return found

    def decode(self, wanted: Any, node: yaml.Node, what: str) -> Any:
        """The node as a value of the type ``wanted``, or ``BAD``. ``what`` names it in messages."""
        origin, arguments = get_origin(wanted), get_args(wanted)
        if wanted is Any:
            return plain(node)
        if origin is Annotated and isinstance(arguments[1], Words):
            return self._literal(get_args(arguments[0]), node, what, arguments[1])
        if origin is Annotated:
            return self._bounded(arguments[0], arguments[1], node, what)
        if origin in (types.UnionType, typing.Union):
            return self._union(arguments, node, what)
        if origin is Literal:
            return self._literal(arguments, node, what)
        if origin is tuple:
            return self._sequence(arguments[0], node, what)
        if origin is not None and issubclass(origin, Mapping):
            return self._map(arguments[1], node, what)
        if wanted is timedelta:
            return self._duration(node, what)
        if wanted is Text:
            text = self._scalar(str, node, what)
            return BAD if text is BAD else Text(text, self.position(node), getattr(node, "style", None) == "|")
        if isinstance(wanted, type) and issubclass(wanted, Located):
            return self._struct(wanted, node, what)
        return self._scalar(wanted, node, what)

    def _wrong(self, node: yaml.Node, what: str, expected: str) -> Any:
        hint = "quote it" if expected == "a string" and isinstance(node, yaml.ScalarNode) else ""
        self._report.error(
            self.position(node), f"{what}: expected {expected}, found {_shape(node, self._quotes)}", hint
        )
        return BAD

    def _scalar(self, wanted: type, node: yaml.Node, what: str) -> Any:
        value = plain(node) if isinstance(node, yaml.ScalarNode) else BAD
        if wanted is float and type(value) is int:
            value = float(value)
        # bool is an int in Python; in YAML it is not.
        fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
        return value if fits else self._wrong(node, what, _NAMES[wanted])

    def _bounded(self, wanted: type, bounds: Range, node: yaml.Node, what: str) -> Any:
        value = self._scalar(wanted, node, what)
        if value is BAD or bounds.low <= value <= bounds.high:
            return value
        self._report.error(self.position(node), f"{what}: {value} is out of range", f"{bounds.low} to {bounds.high}")
        return BAD

    def _union(self, options: tuple[Any, ...], node: yaml.Node, what: str) -> Any:
        options = tuple(option for option in options if option is not type(None))
        if len(options) == 1:
            return self.decode(options[0], node, what)
        value = plain(node) if isinstance(node, yaml.ScalarNode) else BAD
        if isinstance(value, options) and not isinstance(value, bool):
            return value
        return self._wrong(node, what, " or ".join(_NAMES[option] for option in options))

    def _literal(self, options: tuple[str, ...], node: yaml.Node, what: str, words: Words | None = None) -> Any:
        value = self._scalar(str, node, what)
        if value is BAD or value in options:
            return value
        if words is not None and words.meant(value) in options:
            return words.meant(value)
        self._report.error(self.position(node), f"{what}: {value!r} is not supported", did_you_mean(value, options))
        return BAD

    def _duration(self, node: yaml.Node, what: str) -> Any:
        text = self._scalar(str, node, what)
        if text is BAD:
            return BAD
        value = duration(text)
        if value is None:
            self._report.error(
                self.position(node),
                f"{what}: {text!r} is not a duration",
                "write it as in 250ms, 10s or 1h30m",
            )
            return BAD
        return value

    def _sequence(self, wanted: Any, node: yaml.Node, what: str) -> Any:
        if not isinstance(node, yaml.SequenceNode):
            return self._wrong(node, what, "a list")
        values = [self.decode(wanted, item, f"{what}[{n}]") for n, item in enumerate(node.value)]
        return BAD if BAD in values else tuple(values)

    def _map(self, wanted: Any, node: yaml.Node, what: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self._wrong(node, what, "a mapping")
        values = {name: self.decode(wanted, value, name) for name, (_, value) in self.mapping(node).items()}
        return BAD if any(value is BAD for value in values.values()) else values

    def _struct(self, wanted: type[Located], node: yaml.Node, what: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self._wrong(node, what, "a mapping")
        fields = schema(wanted)
        values: dict[str, Any] = {}
        where: dict[str, Position] = {}
        bad = unknown = False
        quotes, self._quotes = self._quotes, self._quotes and not wanted.CONFIDENTIAL
        for name, (key_node, value_node) in self.mapping(node).items():
            if name not in fields:
                if not wanted.PARTIAL:
                    self._unknown(wanted, name, key_node, what)
                    unknown = True
            elif not _null(value_node):
                where[name] = self.position(value_node)
                values[fields[name].attribute] = self.decode(fields[name].type, value_node, name)
        self._quotes = quotes
        for name, known in fields.items():
            if known.required and known.attribute not in values:
                self._report.error(self.position(node), f"{what}: {name!r} is missing")
                bad = True
        if bad or any(value is BAD for value in values.values()):
            return BAD
        made = wanted(**values, at=self.position(node), where=where)
        problems = list(made.problems())
        # What only follows from a misspelt name is not told; a whole one goes on, so that its references are checked.
        for problem in () if unknown else problems:
            at = problem.at or made.place(problem.field)
            self._report.error(at, f"{what}: {problem.message}", problem.hint)
        return BAD if problems else made

    def _unknown(self, wanted: type[Located], name: str, node: yaml.Node, what: str) -> None:
        if name in wanted.REFUSED:
            message, hint = f"{what}: {name!r} is {NOT_YET}", wanted.REFUSED[name]
        else:
            message, hint = f"{what}: unknown field {name!r}", did_you_mean(name, schema(wanted))
        self._report.error(self.position(node), message, hint)


@dataclass(frozen=True, slots=True)
class SchemaField:
    """One key of a mapping."""

    attribute: str
    type: Any
    required: bool


def schema(cls: type[Located]) -> dict[str, SchemaField]:
    """YAML key -> what it decodes to."""
    if cls in _schemas:
        return _schemas[cls]
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for known in dataclasses.fields(cls):
        if known.name in ("at", "where") or known.metadata.get("derived"):
            continue
        required = known.default is dataclasses.MISSING and known.default_factory is dataclasses.MISSING
        name = known.metadata.get("key") or camel(known.name)
        found[name] = SchemaField(known.name, hints[known.name], required)
    _schemas[cls] = found
    return found


#: Schemas read so far; classes do not change.
_schemas: dict[type[Located], dict[str, SchemaField]] = {}


def plain(node: yaml.Node) -> Any:
    """The node as plain Python data."""
    if isinstance(node, yaml.MappingNode):
        return {str(name.value): plain(value) for name, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    if node.tag == "tag:yaml.org,2002:str":
        return node.value
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError):
        return node.value
    # Dates and the like have no JSON form; in a resource they are text.
    return value if isinstance(value, bool | int | float | str | None) else node.value


_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|us|µs|ns|m|s))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")
#: Ten years: what Envoy's durations surely hold.
_LONGEST: Final = 315_576_000.0


def duration(text: str) -> timedelta | None:
    """A duration as Go and the Gateway API write it, or None."""
    if text == "0":
        return timedelta(0)
    if len(text) > 64 or not _DURATION.fullmatch(text):
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return timedelta(seconds=seconds) if seconds <= _LONGEST else None


_NAMES: Final = {str: "a string", int: "an integer", bool: "true or false", float: "a number"}


def camel(name: str) -> str:
    """The YAML key of a field: ``not_hosts`` is ``notHosts``."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _shape(node: yaml.Node, quoted: bool) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    value = plain(node)
    kind = "null" if value is None else _NAMES[type(value)]
    return f"{kind} ({str(node.value)[:40]})" if node.value and quoted else kind
