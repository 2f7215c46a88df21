"""Loading filters: what works, and what each mistake is told."""

from __future__ import annotations

import pytest

from pymesh._bridge import filters as bridge
from pymesh.filters import loader

SOURCE = """
from dataclasses import dataclass
from pymesh.filters import HttpFilter, Reply, When

@dataclass
class Settings:
    refuse: str = "mallory"

class Gate(HttpFilter):
    Config = Settings
    when = (When(":path", "prefix", "/api"),)
    def on_request_headers(self, request, ctx):
        return Reply(403) if request.headers.get("x-user") == self.config.refuse else None

class Late(HttpFilter):
    async def on_response_headers(self, response, ctx):
        return None

class Future(HttpFilter):
    api = "2.0"

class Plain:
    pass
"""


class FakeHeaders(dict[str, str]):
    pass


class FakeRequest:
    def __init__(self, **headers: str) -> None:
        self.headers = FakeHeaders({name.replace("_", "-"): value for name, value in headers.items()})


def test_a_filter_is_loaded_with_its_configuration() -> None:
    loaded = bridge.load("shop:Gate", SOURCE, {"refuse": "eve"})
    assert loaded.when == [(":path", "prefix", "/api")]
    assert list(loaded.hooks) == ["on_request_headers"]
    reply = loaded.hooks["on_request_headers"](FakeRequest(x_user="eve"), None)
    assert (reply.status, reply.body, dict(reply.headers)) == (403, b"", {})
    assert loaded.hooks["on_request_headers"](FakeRequest(x_user="alice"), None) is None


def test_two_generations_share_no_module() -> None:
    first = loader.load("shop:Gate", SOURCE, {})
    second = loader.load("shop:Gate", SOURCE, {})
    assert type(first) is not type(second)


@pytest.mark.parametrize(
    ("class_path", "source", "config", "message"),
    [
        ("shop", SOURCE, {}, "`shop` does not name a filter\nhint: write `module:Class`"),
        ("shop:Gaet", SOURCE, {}, "module `shop` has no class `Gaet`\nhint: it has Gate, Late, Future"),
        (
            "shop:Plain",
            SOURCE,
            {},
            "`shop:Plain` is not a filter\nhint: derive it from pymesh.filters.HttpFilter",
        ),
        (
            "shop:Gate",
            SOURCE,
            {"refused": 1},
            "`shop:Gate` does not know the setting `refused`\nhint: it knows refuse",
        ),
        (
            "shop:Future",
            SOURCE,
            {},
            "`shop:Future` is written for contract 2.0, this proxy speaks 1.1\n"
            "hint: use a release of pymesh that speaks 2.0",
        ),
        ("shop:Gate", "1/0", {}, "the source of `shop` fails: ZeroDivisionError: division by zero"),
        (
            "no_such_module_here:Gate",
            "",
            {},
            "module `no_such_module_here` cannot be imported: No module named 'no_such_module_here'\n"
            "hint: install it where the proxy runs, or give the filter's source in the resource",
        ),
    ],
)
def test_mistakes_are_named(class_path: str, source: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(loader.FilterError) as caught:
        loader.load(class_path, source, config)
    assert str(caught.value) == message


def class_with(body: str) -> str:
    """A module whose class F has these lines."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"from pymesh.filters import HttpFilter, When\nclass F(HttpFilter):\n{lines}\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "async def on_request_headers(self, request, ctx): ...",
            "`m:F.on_request_headers` is a coroutine function\n"
            'hint: the inline lane calls plain functions; write `def`, or set lane = "async"',
        ),
        (
            "async def setup(self): ...",
            "`m:F.setup` is a coroutine function\n"
            'hint: the inline lane calls plain functions; write `def`, or set lane = "async"',
        ),
        (
            'lane = "async"\nasync def on_log(self, record, ctx): ...',
            "`m:F.on_log` is a coroutine function\nhint: on_log is plain in each lane; write `def`",
        ),
        ('lane = "process"', '`m:F` has the lane \'process\'\nhint: write lane = "inline" or lane = "async"'),
        ("max_body = '64k'", "`m:F` has max_body = '64k'\nhint: write a number of octets: 64 * 1024"),
        ("max_body = True", "`m:F` has max_body = True\nhint: write a number of octets: 64 * 1024"),
        (
            "def on_request_body(self, request, body, ctx): ...\ndef on_request_chunk(self, chunk, end, ctx): ...",
            "`m:F` has on_request_body and on_request_chunk\n"
            "hint: a body is seen whole or as it streams: keep one of them",
        ),
        (
            "def on_response_body(self, response, body, ctx): ...\ndef on_response_chunk(self, chunk, end, ctx): ...",
            "`m:F` has on_response_body and on_response_chunk\n"
            "hint: a body is seen whole or as it streams: keep one of them",
        ),
        (
            "def on_request_headers(self, request): ...",
            "`m:F.on_request_headers` cannot be called\nhint: write def on_request_headers(self, request, ctx)",
        ),
        (
            "def on_response_chunk(self, chunk, end, ctx):\n    yield chunk",
            "`m:F.on_response_chunk` is a generator\nhint: a hook returns its result; write no `yield`",
        ),
        ("on_log = 7", "`m:F.on_log` is 7\nhint: write a function, or leave it out"),
        (
            "def on_request_header(self, request, ctx): ...",
            "`m:F.on_request_header` is not a hook\nhint: did you mean on_request_headers?",
        ),
        ('wants = "x-api-key"', "`m:F.wants` is 'x-api-key'\nhint: write a tuple: (\"x-api-key\",)"),
        ('wants = (":path",)', "`m:F.wants` holds ':path'\nhint: write names of request headers"),
        (
            'when = When(":path")',
            "`m:F.when` is When(name=':path', test='present', value='')\n"
            "hint: write a tuple: (When(name, test, value),)",
        ),
        ('when = (":path",)', "`m:F.when` holds ':path'\nhint: write When(name, test, value)"),
        (
            'when = (When(":path", "regex", "x"),)',
            "`m:F.when` has the test `regex`\nhint: it may be present, exact, prefix, suffix, contains",
        ),
        (
            'when = (When(":status", "exact", "200"),)',
            "`m:F.when` tests `:status`\nhint: it may be a header's name, :method, :path, :authority, :scheme",
        ),
        ("api = 1.1", '`m:F` has api = 1.1\nhint: write api = "1.1", or leave it out'),
        (
            'api = "1.2"',
            "`m:F` is written for contract 1.2, this proxy speaks 1.1\nhint: use a release of pymesh that speaks 1.2",
        ),
        (
            "def __init__(self, config):\n    raise OSError('no disk')",
            "`m:F` cannot be made: OSError: no disk",
        ),
        ("class Config: ...", "`m:F`: Config must be a dataclass\nhint: write @dataclass above it"),
    ],
)
def test_mistakes_of_a_class_are_named(body: str, message: str) -> None:
    with pytest.raises(loader.FilterError) as caught:
        loader.load("m:F", class_with(body), {})
    assert str(caught.value) == message


def test_traits_are_what_the_class_says() -> None:
    source = class_with(
        'lane = "async"\n'
        'wants = ("X-Api-Key", "authorization")\n'
        "max_body = 10\n"
        "async def on_request_headers(self, request, ctx): ...\n"
        "def on_response_chunk(self, chunk, end, ctx): ...\n"
        "def on_log(self, record, ctx): ...\n"
    )
    traits = loader.describe(type(loader.load("m:F", source, {})))
    assert traits == loader.Traits(
        hooks={"on_request_headers": True, "on_response_chunk": False, "on_log": False},
        lane="async",
        when=(),
        wants=("x-api-key", "authorization"),
        max_body=10,
    )


def test_a_hook_of_a_base_class_counts() -> None:
    source = class_with("def on_log(self, record, ctx): ...") + "class G(F): ...\n"
    assert list(loader.describe(type(loader.load("m:G", source, {}))).hooks) == ["on_log"]


def test_the_source_may_not_end_the_proxy() -> None:
    with pytest.raises(loader.FilterError, match="the source of `m` fails: SystemExit: 3"):
        loader.load("m:F", "import sys; sys.exit(3)", {})


def test_annotations_as_text_are_resolved_in_the_module() -> None:
    source = """from __future__ import annotations
from dataclasses import dataclass
from pymesh.filters import HttpFilter
@dataclass
class Limit:
    rate: int
@dataclass
class Settings:
    limit: Limit
class F(HttpFilter[Settings]):
    Config = Settings
"""
    assert loader.load("json:F", source, {"limit": {"rate": 3}}).config.limit.rate == 3
    with pytest.raises(loader.FilterError) as caught:
        loader.load("json:F", source, {"limit": {"rate": "3", "burst": 1}})
    assert str(caught.value) == (
        "`json:F` does not know the setting `limit.burst`\nhint: it knows rate\n"
        "`json:F` wants `limit.rate` to be int, not '3'"
    )


def test_setup_is_called_before_the_first_request_and_may_refuse() -> None:
    source = class_with(
        "def setup(self):\n    self.ready = True\ndef on_request_headers(self, request, ctx): return self.ready"
    )
    loaded = bridge.load("m:F", source, {})
    assert loaded.hooks["on_request_headers"](None, None) is True
    with pytest.raises(loader.FilterError, match=r"`m:F\.setup` fails: OSError: no redis"):
        bridge.load("m:F", class_with("def setup(self): raise OSError('no redis')"), {})
