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
    assert loaded.on_response_headers is None
    assert loaded.on_request_headers is not None
    reply = loaded.on_request_headers(FakeRequest(x_user="eve"), None)
    assert (reply.status, reply.body, dict(reply.headers)) == (403, b"", {})
    assert loaded.on_request_headers(FakeRequest(x_user="alice"), None) is None


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
            "`shop:Gate` does not know the setting refused\nhint: it knows refuse",
        ),
        (
            "shop:Future",
            SOURCE,
            {},
            "`shop:Future` is written for contract 2.0, this proxy speaks 1.0\n"
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


def test_a_coroutine_hook_is_refused() -> None:
    with pytest.raises(loader.FilterError, match="coroutine function"):
        bridge.load("shop:Late", SOURCE, {})
