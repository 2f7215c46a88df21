"""A hook in Python, rewritten for the types of `native.hpp`.

The rule that keeps both the same: what is not known to mean the same is not rewritten. Text becomes `Text`, whose
methods do what those of `str` do; the parts of a message become calls; everything else goes to Cython as it is, which
refuses what needs the interpreter. Each statement stays one line, so that what Cython says of it can be told of the
author's line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

#: What a hook may look at, by its parameter.
_PARTS = {
    "Request": {"headers", "path", "authority", "method", "scheme"},
    "Response": {"headers", "status"},
    "Context": {"route", "peer", "request_id"},
}
#: What it may set.
_SETTABLE = {"Request": {"path", "authority"}, "Response": set[str](), "Context": set[str]()}
#: Methods that are there under the same name.
_METHODS = {"get", "add", "startswith", "endswith", "removeprefix", "removesuffix", "lower", "strip"}
_MOST_CHOICES = 5

#: What a hook calls its settings.
STATE = "pymesh_state"

Kind = Literal["text", "whole", "number", "flag", "texts"]


class NeedsPythonError(Exception):
    """The hook cannot do without the interpreter: where, and why."""

    def __init__(self, node: ast.AST, why: str) -> None:
        super().__init__(why)
        self.line: int = getattr(node, "lineno", 0)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a hook may refer to."""

    #: Settings of the filter that can be copied when it is loaded, by name.
    settings: Mapping[str, Kind]
    #: Constants of the module.
    constants: Mapping[str, ast.Constant]
    #: Names that mean `pymesh.filters.Reply`.
    replies: frozenset[str]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of Cython, and the author's line that it was made from."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Body:
    """A hook in Cython: the names of its message and context, what it does, and the settings it reads."""

    message: str
    context: str
    lines: tuple[Line, ...]
    settings: Mapping[str, Kind]


def rewrite(hook: ast.FunctionDef, message: Literal["Request", "Response"], around: Surroundings) -> Body:
    """Raises `NeedsPythonError`."""
    arguments = hook.args
    if hook.decorator_list:
        raise NeedsPythonError(hook.decorator_list[0], "the hook is decorated")
    plain = [*arguments.posonlyargs, *arguments.args]
    if len(plain) != 3 or arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.defaults:
        raise NeedsPythonError(hook, "the hook has more parameters than the contract gives it")
    own, first, second = (one.arg for one in plain)
    # A name that is set anywhere in a function is the function's own throughout.
    own_names = {one.id for one in ast.walk(hook) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    if own_names & {"len", *around.replies, *around.constants}:
        raise NeedsPythonError(hook, f"it sets {min(own_names & {'len', *around.replies, *around.constants})}")
    body = _Statements(own, {first: message, second: "Context"}, around)
    lines = [*body.block(hook.body, 1)]
    if not isinstance(hook.body[-1], ast.Return | ast.Raise):
        lines.append(Line("    return 0", hook.lineno))
    return Body(first, second, tuple(lines), body.expressions.settings)


class _Statements:
    """The statements of one hook."""

    def __init__(self, own: str, parts: Mapping[str, str], around: Surroundings) -> None:
        self.own = own
        self.parts = parts
        self.around = around
        self.expressions = _Expressions(self)

    def block(self, statements: list[ast.stmt], depth: int) -> Iterator[Line]:
        lines = 0
        for statement in statements:
            for line in self.statement(statement, depth):
                lines += 1
                yield line
        if not lines:
            yield Line("    " * depth + "pass", statements[0].lineno)

    def statement(self, one: ast.stmt, depth: int) -> Iterator[Line]:
        indent = "    " * depth

        def line(text: str) -> Line:
            return Line(indent + text, one.lineno)

        match one:
            case ast.Expr(ast.Constant()) | ast.Pass():
                return
            case ast.If():
                yield line(f"if {self.condition(one.test)}:")
                yield from self.block(one.body, depth + 1)
                if one.orelse:
                    yield line("else:")
                    yield from self.block(one.orelse, depth + 1)
            case ast.Return():
                yield line(f"return {self.result(one.value)}")
            case ast.Raise(ast.Call(ast.Name(kind), [ast.Constant(str(why))], []), None):
                yield line(f"return pymesh_native.fail({_literal(f'{kind}: {why}', one)})")
            case ast.Raise(ast.Name(kind), None):
                yield line(f"return pymesh_native.fail({_literal(kind, one)})")
            case ast.Assign([target], value) | ast.AnnAssign(target, _, ast.expr() as value):
                yield line(self.assignment(target, value))
            case ast.AugAssign(ast.Name(name), ast.Add(), value) if name not in self.parts:
                yield line(f"{name} = {name} + {self.text(value)}")
            case ast.Delete([ast.Subscript(of, key)]):
                yield line(f"{self.text(of)}.delitem({self.text(key)})")
            case ast.Expr(ast.Call() as call):
                yield line(self.text(call))
            case _:
                raise NeedsPythonError(one, f"`{_told(one)}` is not compiled to C")

    def assignment(self, target: ast.expr, value: ast.expr) -> str:
        match target:
            case ast.Name(name) if name != self.own and name not in self.parts:
                return f"{name} = {self.text(value)}"
            case ast.Subscript(of, key):
                return f"{self.text(of)}.setitem({self.text(key)}, {self.text(value)})"
            case ast.Attribute(ast.Name(of), part) if part in _SETTABLE.get(self.parts.get(of, ""), ()):
                return f"{of}.set_{part}({self.text(value)})"
        raise NeedsPythonError(target, f"`{ast.unparse(target)}` is set, which is not compiled to C")

    def result(self, value: ast.expr | None) -> str:
        """What the hook returns: nothing, a reply, or one of two of these."""
        match value:
            case None | ast.Constant(None):
                return "0"
            case ast.IfExp(test, body, orelse):
                return f"({self.result(body)} if {self.condition(test)} else {self.result(orelse)})"
            case ast.Call(ast.Name(name)) if name in self.around.replies:
                return self.reply(value)
        raise NeedsPythonError(value, f"`{ast.unparse(value)}` is returned, not a Reply(...) or None")

    def reply(self, call: ast.Call) -> str:
        names = ("status", "body", "headers")
        given: dict[str | None, ast.expr] = dict(zip(names, call.args, strict=False))
        given |= {keyword.arg: keyword.value for keyword in call.keywords}
        fields = given.pop("headers", None) or ast.Dict([], [])
        status, body = given.pop("status", None), given.pop("body", None)
        # In Python a status of another type is a failure, not a number.
        is_whole = not isinstance(status, ast.Constant) or type(status.value) is int
        if given or status is None or not is_whole or not isinstance(fields, ast.Dict) or None in fields.keys:
            raise NeedsPythonError(call, "a reply is compiled to C if its headers are written out, as {name: value}")
        text = f"pymesh_native.reply({self.text(status)}{f', {self.octets(body)}' if body else ''})"
        for name, value in zip(fields.keys, fields.values, strict=True):
            assert name is not None
            text += f".header({self.text(name)}, {self.text(value)})"
        return f"{text}.done()"

    def octets(self, body: ast.expr) -> str:
        """Bytes, which nothing but a body is: text is none, in Python."""
        match body:
            case ast.Constant(bytes() as value):
                return _literal(value, body)
            case ast.Call(ast.Attribute(of, "encode"), [], []):
                return f"({self.text(of)}).encode()"
            case ast.Call(ast.Attribute(of, "encode"), [ast.Constant("latin-1" | "latin1" | "iso-8859-1")], []):
                return self.text(of)
        raise NeedsPythonError(body, f"`{ast.unparse(body)}` is not written as bytes, b'...' or text.encode()")

    def condition(self, test: ast.expr) -> str:
        """An expression of which only its truth counts."""
        return ast.unparse(self.expressions.truth(test))

    def text(self, expression: ast.expr) -> str:
        """An expression in Cython."""
        return ast.unparse(self.expressions.visit(expression))


class _Expressions(ast.NodeTransformer):
    """The expressions of one hook."""

    def __init__(self, body: _Statements) -> None:
        self.body = body
        self.settings: dict[str, Kind] = {}

    def generic_visit(self, node: ast.AST) -> ast.AST:
        raise NeedsPythonError(node, f"`{ast.unparse(node)}` is not compiled to C")

    def truth(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.BoolOp(operator, values):
                return ast.BoolOp(operator, [self.truth(value) for value in values])
            case ast.UnaryOp(ast.Not(), of):
                return _not(self.truth(of))
            case ast.Compare():
                return self.visit_Compare(node)
        return ast.Call(_raw("pymesh_native.truth"), [self.visit(node)], [])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if not isinstance(node.op, ast.Not):
            raise NeedsPythonError(node, f"`{ast.unparse(node)}` is not compiled to C")
        return self.truth(node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        return ast.IfExp(self.truth(node.test), self.visit(node.body), self.visit(node.orelse))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        return ast.BoolOp(node.op, [self.visit(value) for value in node.values])

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        match node.value:
            case str():
                return _raw(_literal(node.value, node))
            case bool() | int() | float():
                return node
        raise NeedsPythonError(node, f"`{ast.unparse(node)}` is not compiled to C here")

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if constant := self.body.around.constants.get(node.id):
            return self.visit_Constant(ast.Constant(constant.value, lineno=node.lineno))
        if node.id == self.body.own or node.id in self.body.parts:
            raise NeedsPythonError(node, f"`{node.id}` is used as a whole")
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        match node:
            case ast.Attribute(ast.Attribute(ast.Name(own), "config"), setting) if own == self.body.own:
                if setting in self.body.around.settings:
                    kind = self.settings[setting] = self.body.around.settings[setting]
                    return _raw(f"{STATE}.own_{setting}" + (".text()" if kind == "text" else ""))
                raise NeedsPythonError(node, f"the setting `{setting}` has a type that is not compiled to C")
            case ast.Attribute(ast.Name(of), part) if part in _PARTS.get(self.body.parts.get(of, ""), ()):
                return _raw(f"{of}.{part}()")
        raise NeedsPythonError(node, f"`{ast.unparse(node)}` is not compiled to C")

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if isinstance(node.slice, ast.Slice):
            raise NeedsPythonError(node, f"`{ast.unparse(node)}` is not compiled to C")
        return _call(self.visit(node.value), "getitem", [self.visit(node.slice)])

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if not node.keywords:
            match node.func, node.args:
                case ast.Name("len"), [of]:
                    return _call(self.visit(of), "length", [])
                case ast.Attribute(of, "get"), [key, ast.Constant(None)]:
                    return _call(self.visit(of), "get", [self.visit(key)])
                case ast.Attribute(of, name), arguments if name in _METHODS:
                    return _call(self.visit(of), name, [self.visit(one) for one in arguments])
        raise NeedsPythonError(node, f"`{ast.unparse(node)}` is not compiled to C")

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if len(node.ops) != 1:
            raise NeedsPythonError(node, f"`{ast.unparse(node)}` is a chain, which is not compiled to C")
        left, operator, right = node.left, node.ops[0], node.comparators[0]
        match operator, right:
            case ((ast.Is() | ast.Eq()), ast.Constant(None)):
                return _call(self.visit(left), "is_none", [])
            case ((ast.IsNot() | ast.NotEq()), ast.Constant(None)):
                return _not(_call(self.visit(left), "is_none", []))
            case ((ast.In() | ast.NotIn()), _):
                found = self.membership(left, right)
                return found if isinstance(operator, ast.In) else _not(found)
            case ((ast.Is() | ast.IsNot()), _):
                raise NeedsPythonError(node, f"`{ast.unparse(node)}` asks which object it is")
        return ast.Compare(self.visit(left), [operator], [self.visit(right)])

    def membership(self, left: ast.expr, right: ast.expr) -> ast.expr:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set):
            return _call(self.visit(right), "contains", [self.visit(left)])
        if not 1 <= len(right.elts) <= _MOST_CHOICES:
            raise NeedsPythonError(right, f"one of more than {_MOST_CHOICES} choices: make them a setting")
        return ast.Call(_raw("pymesh_native.any_of"), [self.visit(left), *map(self.visit, right.elts)], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if not isinstance(node.op, ast.Add):
            raise NeedsPythonError(node, f"`{ast.unparse(node)}` is not compiled to C")
        return ast.BinOp(self.visit(node.left), node.op, self.visit(node.right))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        whole: ast.expr | None = None
        for value in node.values:
            match value:
                case ast.FormattedValue(of, -1, None):
                    piece: ast.expr = ast.Call(_raw("pymesh_native.formatted"), [self.visit(of)], [])
                case ast.FormattedValue():
                    raise NeedsPythonError(node, f"`{ast.unparse(node)}` formats, which is not compiled to C")
                case _:
                    piece = self.visit(value)
            whole = piece if whole is None else ast.BinOp(whole, ast.Add(), piece)
        return whole or _raw(_literal("", node))


def _told(one: ast.stmt) -> str:
    return ast.unparse(one).partition("\n")[0]


def _literal(value: str | bytes, node: ast.AST) -> str:
    try:
        octets = value.encode("latin-1") if isinstance(value, str) else value
    except UnicodeEncodeError:
        raise NeedsPythonError(node, f"{value!r} is not Latin-1") from None
    return f"pymesh_native.Text({octets!r}, {len(octets)})"


def _raw(text: str) -> ast.expr:
    """An expression as it is."""
    return ast.parse(text, mode="eval").body


def _call(of: ast.expr, name: str, arguments: list[ast.expr]) -> ast.expr:
    return ast.Call(ast.Attribute(of, name), arguments, [])


def _not(of: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), of)
