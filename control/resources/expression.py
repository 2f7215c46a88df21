"""What is understood of CEL in a Telemetry: conditions of log lines, and values of labels.

The proxies have no interpreter of CEL. A condition is one if Envoy's own access log filters say the same of every
request; a value is one if Istio's stats filter can be told it in an attribute with a fallback. Whatever else CEL can
say is refused, with what there is.

A condition is a tree of :class:`Every` and :class:`Some` over tests; `!` is carried down to them. As in CEL a test of
what is not there (a header, the status of a request without an answer) is not true, and nor is its negation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from pymesh.control.resources.decode import duration
from pymesh.control.resources.diagnostics import did_you_mean

Order = Literal["EQ", "GE", "LE"]
#: How the text of a header is looked at.
Text = Literal["exact", "prefix", "suffix", "contains", "regex", "present"]


@dataclass(frozen=True, slots=True)
class Code:
    """The status of the answer."""

    order: Order
    status: int


@dataclass(frozen=True, slots=True)
class Lasted:
    """How many whole milliseconds the request took."""

    order: Order
    milliseconds: int


@dataclass(frozen=True, slots=True)
class GrpcStatus:
    """The gRPC status of the answer."""

    number: int
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class Flagged:
    """There is a response flag."""


@dataclass(frozen=True, slots=True)
class Header:
    """A header of the request; `:method`, `:path`, `:authority` and `:scheme` are among them."""

    name: str
    how: Text
    text: str = ""
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class Every:
    """All of them hold."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """One of them holds."""

    parts: tuple[Condition, ...]


Condition = Code | Lasted | GrpcStatus | Flagged | Header | Every | Some


class ExpressionError(ValueError):
    """An expression that is not understood: what is wrong, and the remedy."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


#: Attributes of Envoy that are headers of the request.
_HEADERS: Final[Mapping[str, str]] = {
    "request.method": ":method",
    "request.path": ":path",
    "request.host": ":authority",
    "request.scheme": ":scheme",
    "request.useragent": "user-agent",
    "request.referer": "referer",
    "request.id": "x-request-id",
}
_CONDITIONS: Final = (
    *_HEADERS,
    *("request.headers['NAME']", "request.url_path", "request.duration", "response.code", "response.flags"),
    "response.grpc_status",
)
#: Attributes that a label can be made of, beside headers.
_VALUES: Final = (
    *_HEADERS,
    *("request.protocol", "response.code", "response.code_details", "destination.port"),
    *("connection.requested_server_name", "xds.cluster_name", "xds.route_name", "upstream.address"),
)
_METHODS: Final[Mapping[str, Text]] = {
    "startsWith": "prefix",
    "endsWith": "suffix",
    "contains": "contains",
    "matches": "regex",
}
_MIRRORED: Final = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>'(?:[^'\\]|\\['"\\])*'|"(?:[^"\\]|\\['"\\])*")|(?P<number>\d+)"""
    r"""|(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<mark>\|\||&&|==|!=|<=|>=|[<>!()\[\].?:]))"""
)
_LONGEST: Final = 2048
_DEEPEST: Final = 32
_MOST_STATUS: Final = 599
_FIRST_STATUS: Final = 100
_GRPC_STATUSES: Final = 17


def condition(text: str) -> Condition:
    """What a filter of log lines asks for. Raises :class:`ExpressionError`."""
    reader = _Reader(text)
    found = reader.either(0)
    reader.end()
    return found


def check_value(text: str) -> None:
    """Whether a label can have this value: a text, an attribute, or `has(A) ? A : VALUE`. Raises ExpressionError."""
    reader = _Reader(text)
    reader.value(0)
    reader.end()


def negated(one: Condition) -> Condition:
    """What holds if the condition does not, of what is there."""
    match one:
        case Every(parts):
            return Some(tuple(map(negated, parts)))
        case Some(parts):
            return Every(tuple(map(negated, parts)))
        case Code("EQ", status):
            return Some((Code("LE", status - 1), Code("GE", status + 1)))
        case Code("GE", status):
            return Code("LE", status - 1)
        case Code("LE", status):
            return Code("GE", status + 1)
        case Lasted("GE", milliseconds):
            return Lasted("LE", milliseconds - 1)
        case Lasted(_, milliseconds):
            return Lasted("GE", milliseconds + 1)
        case GrpcStatus() | Header():
            return replace(one, inverted=not one.inverted)
        case _:
            raise ExpressionError("no filter of the proxies finds requests without a flag", "ask for response.code")


@dataclass(frozen=True, slots=True)
class _Attribute:
    name: str
    #: The header that it is, if it is one of the request's.
    header: str = ""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


class _Reader:
    """Reads an expression from left to right."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise ExpressionError(f"the expression is longer than {_LONGEST} characters", "shorten it")
        self._tokens: list[_Token] = []
        self._next = 0
        at = 0
        stripped = text.rstrip()
        while at < len(stripped):
            found = _TOKEN.match(stripped, at)
            if found is None or found.lastgroup is None:
                raise ExpressionError(f"{stripped[at:].strip()[:20]!r} is not understood", _known(_CONDITIONS))
            self._tokens.append(_Token(found.lastgroup, found[found.lastgroup]))
            at = found.end()
        if not self._tokens:
            raise ExpressionError("the expression is empty", "remove it, or write one as in response.code >= 400")

    def end(self) -> None:
        """Nothing is left."""
        if self._next < len(self._tokens):
            raise ExpressionError(f"{self._peek()!r} has no place there", "join conditions with && and ||")

    def either(self, depth: int) -> Condition:
        """Alternatives."""
        return self._joined("||", lambda: self._both(depth), Some)

    def _both(self, depth: int) -> Condition:
        return self._joined("&&", lambda: self._one(depth), Every)

    def _joined(
        self, mark: str, part: Callable[[], Condition], join: Callable[[tuple[Condition, ...]], Condition]
    ) -> Condition:
        parts = [part()]
        while self._take(mark):
            parts.append(part())
        return parts[0] if len(parts) == 1 else join(tuple(parts))

    def _one(self, depth: int) -> Condition:
        if depth > _DEEPEST:
            raise ExpressionError("the expression is nested too deeply", "split it into several accessLogging entries")
        if self._take("!"):
            return negated(self._one(depth + 1))
        if self._take("("):
            inner = self.either(depth + 1)
            self._expect(")")
            return inner
        return self._test()

    def _test(self) -> Condition:
        token = self._tokens[self._next] if self._next < len(self._tokens) else None
        if token is not None and token.kind in ("text", "number"):
            return self._turned(self._literal())
        if token is not None and token.text in ("true", "false"):
            raise ExpressionError(f"{token.text!r} asks for nothing", "leave the filter out, or set 'disabled'")
        if self._is_call("has"):
            attribute = self._has()
            return self._presence(attribute)
        attribute = self._attribute(_CONDITIONS)
        if self._take("."):
            return self._method(attribute)
        mark = self._peek()
        if mark not in _MIRRORED:
            raise ExpressionError(f"{attribute.name!r} is compared to nothing", f"as in {attribute.name} == ...")
        self._next += 1
        return _compared(attribute, mark, self._literal())

    def _turned(self, literal: str | int | _Duration) -> Condition:
        """A comparison whose literal comes first, or `'name' in request.headers`."""
        mark = self._peek()
        if mark == "in" and isinstance(literal, str):
            self._next += 1
            where = self._path()
            if where != "request.headers":
                raise ExpressionError(f"{where!r} is no map that is known", "'NAME' in request.headers")
            return Header(literal.lower(), "present")
        if mark not in _MIRRORED:
            raise ExpressionError(f"{literal!r} is compared to nothing", "as in response.code >= 400")
        self._next += 1
        return _compared(self._attribute(_CONDITIONS), _MIRRORED[mark], literal)

    def _presence(self, attribute: _Attribute) -> Condition:
        if attribute.header:
            return Header(attribute.header, "present")
        if attribute.name == "response.code":
            return Code("GE", 1)
        hint = "has() is known of headers of the request and of response.code"
        raise ExpressionError(f"has({attribute.name}) is not understood", hint)

    def _method(self, attribute: _Attribute) -> Condition:
        name = self._name()
        how = _METHODS.get(name)
        if how is None:
            raise ExpressionError(f"{name!r} is not known", did_you_mean(name, _METHODS, otherwise=_known(_METHODS)))
        self._expect("(")
        wanted = self._literal()
        self._expect(")")
        if not isinstance(wanted, str):
            raise ExpressionError(f"{name}({wanted}): a text is wanted", "put it in quotes")
        if attribute.name == "request.url_path" and how == "prefix" and "?" not in wanted:
            return Header(":path", "prefix", wanted)
        if not attribute.header:
            hint = "ask for request.path, which has the query" if attribute.name == "request.url_path" else ""
            raise ExpressionError(f"{attribute.name}.{name} is not understood", hint or _known(_CONDITIONS))
        return Header(attribute.header, how, _pattern(wanted) if how == "regex" else wanted)

    def value(self, depth: int) -> None:
        """The value of a label."""
        if depth > _DEEPEST:
            raise ExpressionError("the expression is nested too deeply", "two fallbacks are enough")
        token = self._tokens[self._next] if self._next < len(self._tokens) else _Token("", "")
        if token.kind == "text":
            self._next += 1
        elif self._is_call("has"):
            asked = self._has()
            self._expect("?")
            if self._attribute(_VALUES) != asked:
                hint = f"as in has({asked.name}) ? {asked.name} : 'none'"
                raise ExpressionError("a label has the value that was asked for, or another in its place", hint)
            self._expect(":")
            self.value(depth + 1)
        elif self._is_call("string"):
            self._next += 2
            self._attribute(_VALUES)
            self._expect(")")
        else:
            self._attribute(_VALUES)

    def _is_call(self, name: str) -> bool:
        here = [token.text for token in self._tokens[self._next : self._next + 2]]
        return here == [name, "("]

    def _has(self) -> _Attribute:
        self._next += 2
        found = self._attribute((*_CONDITIONS, *_VALUES))
        self._expect(")")
        return found

    def _attribute(self, known: tuple[str, ...]) -> _Attribute:
        name = self._path()
        if name in ("request.headers", "response.headers") and self._take("["):
            key = self._literal()
            self._expect("]")
            if not isinstance(key, str) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", key):
                raise ExpressionError(f"{name}[{key}] names no header", f"as in {name}['x-user']")
            if name == "request.headers":
                return _Attribute(f"{name}[{key.lower()!r}]", key.lower())
            if known is not _CONDITIONS:
                return _Attribute(f"{name}[{key.lower()!r}]")
            raise ExpressionError("no filter of the proxies looks at headers of the answer", _known(_CONDITIONS))
        if name in _HEADERS:
            return _Attribute(name, _HEADERS[name])
        if name not in known:
            hint = did_you_mean(name, known, otherwise=_known(known))
            raise ExpressionError(f"{name!r} is not known here", hint)
        return _Attribute(name)

    def _path(self) -> str:
        """`a.b.c`, as far as it is an attribute: a method of a text is not part of it."""
        path = self._name()
        while self._peek() == "." and self._next + 1 < len(self._tokens):
            following = self._tokens[self._next + 1]
            if following.kind != "name" or following.text in _METHODS:
                break
            self._next += 2
            path = f"{path}.{following.text}"
        return path

    def _name(self) -> str:
        token = self._tokens[self._next] if self._next < len(self._tokens) else None
        if token is None or token.kind != "name":
            what = f"{self._peek() or 'the end'!r} comes where an attribute is wanted"
            raise ExpressionError(what, _known(_CONDITIONS))
        self._next += 1
        return token.text

    def _literal(self) -> str | int | _Duration:
        token = self._tokens[self._next] if self._next < len(self._tokens) else _Token("", "")
        if self._is_call("duration"):
            self._next += 2
            written = self._literal()
            self._expect(")")
            length = duration(written) if isinstance(written, str) else None
            if length is None:
                raise ExpressionError(f"duration({written}) is no duration", "as in duration('500ms')")
            return _Duration(length.total_seconds() * 1000)
        self._next += 1
        if token.kind == "text":
            return _unquoted(token.text)
        if token.kind == "number":
            return int(token.text)
        what = f"{token.text or 'the end'!r} comes where a value is wanted"
        raise ExpressionError(what, "a text in quotes or a number")

    def _peek(self) -> str:
        return self._tokens[self._next].text if self._next < len(self._tokens) else ""

    def _take(self, mark: str) -> bool:
        found = self._next < len(self._tokens) and self._tokens[self._next] == _Token("mark", mark)
        self._next += found
        return found

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise ExpressionError(f"{self._peek() or 'the end'!r} comes where {mark!r} is wanted", f"add {mark!r}")


@dataclass(frozen=True, slots=True)
class _Duration:
    milliseconds: float


def _compared(attribute: _Attribute, mark: str, wanted: str | int | _Duration) -> Condition:
    name = attribute.name
    if name == "response.code":
        return _code(mark, wanted)
    if name == "request.duration":
        return _lasted(mark, wanted)
    if name == "response.grpc_status":
        if not isinstance(wanted, int) or mark not in ("==", "!=") or wanted >= _GRPC_STATUSES:
            raise ExpressionError(f"{name} {mark} {wanted} is not understood", "compare it with == or != to 0..16")
        return GrpcStatus(wanted, mark == "!=")
    if name == "response.flags":
        if (mark, wanted) not in (("!=", 0), (">", 0)):
            raise ExpressionError(f"{name} {mark} {wanted} is not understood", "response.flags != 0 finds every flag")
        return Flagged()
    if mark not in ("==", "!=") or not isinstance(wanted, str):
        raise ExpressionError(f"{name} {mark} {wanted} is not understood", "compare it to a text with == or !=")
    if name == "request.url_path":
        return Header(":path", "regex", re.escape(wanted) + r"(\?.*)?", mark == "!=")
    return Header(attribute.header, "exact", wanted, mark == "!=")


def _code(mark: str, wanted: str | int | _Duration) -> Condition:
    if not isinstance(wanted, int) or not _FIRST_STATUS <= wanted <= _MOST_STATUS:
        raise ExpressionError(f"no answer has the status {wanted}", "a number from 100 to 599")
    match mark:
        case "==":
            return Code("EQ", wanted)
        case "!=":
            return negated(Code("EQ", wanted))
        case "<":
            return Code("LE", wanted - 1)
        case ">":
            return Code("GE", wanted + 1)
        case _:
            return Code("GE" if mark == ">=" else "LE", wanted)


def _lasted(mark: str, wanted: str | int | _Duration) -> Condition:
    """The proxies know whole milliseconds: what is `>` cannot be told from what is equal."""
    if not isinstance(wanted, _Duration):
        raise ExpressionError(f"request.duration {mark} {wanted}: a duration is wanted", "as in duration('500ms')")
    if mark not in (">=", "<"):
        raise ExpressionError(f"request.duration {mark} ... is not understood", "compare it with >= or <")
    if wanted.milliseconds < 1 or wanted.milliseconds != int(wanted.milliseconds):
        raise ExpressionError("durations are compared in whole milliseconds", "as in duration('500ms')")
    found = Lasted("GE", int(wanted.milliseconds))
    return found if mark == ">=" else negated(found)


def _pattern(text: str) -> str:
    """CEL finds a pattern anywhere in the text, Envoy's matchers want all of the text."""
    try:
        re.compile(text)
    except re.error as error:
        raise ExpressionError(f"{text!r} is not a regular expression: {error}", "RE2's syntax") from error
    return f".*(?:{text}).*"


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _known(names: object) -> str:
    return f"known: {', '.join(names)}" if isinstance(names, tuple | Mapping) else ""
