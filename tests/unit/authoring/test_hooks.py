"""What of a hook becomes C, and what is left to the interpreter, with the reason."""

from __future__ import annotations

import ast

import pytest

from pymesh.authoring.hooks import NeedsPythonError, Surroundings, rewrite

AROUND = Surroundings(
    settings={"name": "text", "limit": "whole", "deny": "texts"},
    constants={"HEADER": ast.Constant("x-user")},
    replies=frozenset({"Reply"}),
)


def rewritten(body: str) -> list[str]:
    lines = "\n    ".join(body.split("\n"))
    [hook] = ast.parse(f"def on_request_headers(self, request, ctx):\n    {lines}\n").body
    assert isinstance(hook, ast.FunctionDef)
    made = rewrite(hook, "Request", AROUND)
    return [line.text.strip().replace("pymesh_native.", "") for line in made.lines]


@pytest.mark.parametrize(
    ("body", "made"),
    [
        ("return None", "return 0"),
        ("x = request.headers.get(HEADER)", "x = request.headers().get(Text(b'x-user', 6))"),
        ("x = request.headers.get('a', None)", "x = request.headers().get(Text(b'a', 1))"),
        ("request.headers['a'] = self.config.name",
         "request.headers().setitem(Text(b'a', 1), pymesh_state.own_name.text())"),
        ("del request.headers['a']", "request.headers().delitem(Text(b'a', 1))"),
        ("request.path = '/\xe9'", "request.set_path(Text(b'/\\xe9', 2))"),
        ("x = 'a' in self.config.deny", "x = pymesh_state.own_deny.contains(Text(b'a', 1))"),
        ("x = ctx.peer is None", "x = ctx.peer().is_none()"),
        ("x = ctx.peer not in ('a', 'b')", "x = not any_of(ctx.peer(), Text(b'a', 1), Text(b'b', 1))"),
        ("x = len(request.path) > self.config.limit", "x = request.path().length() > pymesh_state.own_limit"),
        ("x = f'{request.path}!'", "x = formatted(request.path()) + Text(b'!', 1)"),
        ("return Reply(403, b'no', {'a': 'b'})",
         "return reply(403, Text(b'no', 2)).header(Text(b'a', 1), Text(b'b', 1)).done()"),
        ("raise ValueError('no')", "return fail(Text(b'ValueError: no', 14))"),
        ("return Reply(status=500) if ctx.route else None", "return (reply(500).done() if truth(ctx.route()) else 0)"),
    ],
)  # fmt: skip
def test_what_becomes_c(body: str, made: str) -> None:
    assert rewritten(body)[0] == made


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("ctx['a'] = 'b'", "`ctx` is used as a whole"),
        ("self.seen = 1", "`self.seen` is set, which is not compiled to C"),
        ("x = self.seen", "`self.seen` is not compiled to C"),
        ("x = self.config.other", "the setting `other` has a type that is not compiled to C"),
        ("for x in request.headers:\n    pass", "`for x in request.headers:` is not compiled to C"),
        ("x = request.path[1:]", "`request.path[1:]` is not compiled to C"),
        ("x = request.headers.items()", "`request.headers.items()` is not compiled to C"),
        ("x = request.path.split('/')", "`request.path.split('/')` is not compiled to C"),
        ("x = f'{request.path:>10}'", "`f'{request.path:>10}'` formats, which is not compiled to C"),
        ("x = request.path % 2", "`request.path % 2` is not compiled to C"),
        ("x = 'a' < request.path < 'b'", "`'a' < request.path < 'b'` is a chain, which is not compiled to C"),
        ("x = request.path is HEADER", "`request.path is HEADER` asks which object it is"),
        ("x = '\u20ac'", "'\u20ac' is not Latin-1"),
        ("x = None", "`None` is not compiled to C here"),
        ("return 5", "`5` is returned, not a Reply(...) or None"),
        ("return request", "`request` is returned, not a Reply(...) or None"),
        ("return Reply(200, headers=dict(a='b'))", "a reply is compiled to C if its headers are written out"),
        ("return Reply(200, 'text')", "`'text'` is not written as bytes, b'...' or text.encode()"),
        ("return Reply(200.0)", "a reply is compiled to C if its headers are written out"),
        ("x = request.path == b'/'", "`b'/'` is not compiled to C here"),
        ("x = request.path.encode()", "`request.path.encode()` is not compiled to C"),
        ("HEADER = 'a'\nx = HEADER", "it sets HEADER"),
        ("try:\n    pass\nexcept KeyError:\n    pass", "`try:` is not compiled to C"),
        ("global x\nx = 1", "`global x` is not compiled to C"),
    ],
)
def test_what_is_left_to_the_interpreter(body: str, why: str) -> None:
    with pytest.raises(NeedsPythonError) as refusal:
        rewritten(body)
    assert why in str(refusal.value)


def test_a_decorated_hook_is_python() -> None:
    [hook] = ast.parse("@cached\ndef on_request_headers(self, request, ctx):\n    return None\n").body
    assert isinstance(hook, ast.FunctionDef)
    with pytest.raises(NeedsPythonError, match="decorated"):
        rewrite(hook, "Request", AROUND)
