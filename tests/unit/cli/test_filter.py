"""`pymesh filter`: what is written works, what is wrong is told with its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pymesh.cli.filter import command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a new filter, which is the current one."""
    monkeypatch.chdir(tmp_path)
    assert run("new", "my-quota").exit_code == 0
    return tmp_path


def test_a_new_filter_is_tested_checked_and_ready(new: Path) -> None:
    assert sorted(path.name for path in new.iterdir()) == ["my_quota.py", "my_quota.yaml", "test_my_quota.py"]
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(new), str(new)]
    tested = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(new)})
    assert "3 passed" in tested.stdout, tested.stdout + tested.stderr
    checked = run("check", "my_quota.py", "--config", "my_quota.yaml")
    assert checked.exit_code == 0
    assert checked.output == (
        "my_quota.py:17:1: MyQuota: lane inline; on_request_headers, on_response_headers; settings fit\n"
    )


def test_new_overwrites_nothing(new: Path) -> None:
    (new / "my_quota.py").write_text("mine")
    again = run("new", "my-quota")
    assert again.exit_code == 1
    assert "my_quota.py, test_my_quota.py, my_quota.yaml: already there, nothing was written" in again.output
    assert (new / "my_quota.py").read_text() == "mine"
    bad = run("new", "1st")
    assert bad.exit_code == 1 and "`1st` cannot be a module's name\nhint:" in bad.output


FILTER = """from dataclasses import dataclass
from pymesh.filters import HttpFilter

@dataclass
class Settings:
    name: str
    limit: int = 3

class Probe(HttpFilter[Settings]):
    Config = Settings
    {hook}
        return None
"""


@pytest.mark.parametrize(
    ("source", "config", "words"),
    [
        (FILTER.format(hook="def on_request_header(self, request, ctx):"), None,
         "error: probe.py:11:5: `Probe.on_request_header` is not a hook\nhint: did you mean on_request_headers?"),
        (FILTER.format(hook="def on_request_headers(self, request):"), None,
         "error: probe.py:11:5: `Probe.on_request_headers` cannot be called\n"
         "hint: write def on_request_headers(self, request, ctx)"),
        (FILTER.format(hook="async def on_request_headers(self, request, ctx):"), None,
         "error: probe.py:11:5: `Probe.on_request_headers` is a coroutine function\n"
         'hint: the inline lane calls plain functions; write `def`, or set lane = "async"'),
        (FILTER.format(hook="def on_request_headers(self, request, ctx):"), "limit: ten\nlimits: 1\n",
         "error: probe.py:9:1: `Probe` does not know the setting `limits`\nhint: it knows limit, name\n"
         "probe.py:6:5: `Probe` needs the setting `name`\nhint: it is str\n"
         "probe.py:7:5: `Probe` wants `limit` to be int, not 'ten'"),
        (FILTER.format(hook="def on_request_headers(self, request, ctx):"), "[1]",
         "config.yaml:1:1: no settings in it"),
        (FILTER.format(hook="def on_request_headers(self, request, ctx):"), "a: [", "config.yaml:1:5: "),
        ("def on_request_headers(\n", None, "error: probe.py:1:23: '(' was never closed"),
        ("import os\nx = 1\nraise SystemExit(3)\n", None, "error: probe.py:3:1: SystemExit: 3"),
        ("import no_such_module\n", None, "error: probe.py:1:1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n", None, "error: probe.py:1:1: no filter in it\nhint: derive a class from pymesh.filters.HttpFilter"),
        (None, None, "error: probe.py cannot be read: No such file or directory\nhint: `pymesh filter new NAME`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(
    source: str | None, config: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if source is not None:
        Path("probe.py").write_text(source)
    options = []
    if config is not None:
        Path("config.yaml").write_text(config)
        options = ["--config", "config.yaml"]
    checked = run("check", "probe.py", *options)
    assert checked.exit_code == 1
    assert words in checked.output


def test_a_class_of_an_installed_module(new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(new))
    checked = run("check", "my_quota:MyQuota")
    assert checked.exit_code == 0 and "settings not checked (no --config)" in checked.output
    other = run("check", "my_quota:Other")
    assert other.exit_code == 1 and "no filter `Other` in it\nhint: it has MyQuota" in other.output
    sys.modules.pop("my_quota")


def test_building_says_what_became_of_each_hook(new: Path) -> None:
    with Path("my_quota.py").open("a") as file:
        file.write("\n    def on_request_trailers(self, trailers, ctx):\n        print(trailers)\n")
    built = run("build", "my_quota.py")
    assert built.exit_code == 0, built.output
    library, *lines = built.output.splitlines()
    assert Path(library).parent == Path("build") and Path(library).exists()
    assert lines == [
        "  MyQuota.on_request_headers: in C, called without the interpreter",
        "  MyQuota.on_response_headers: in C, called without the interpreter",
        "  MyQuota.on_request_trailers: called in Python",
        "    my_quota.py:35: the C interface has no such hook",
    ]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {"CXX": "no-such-compiler"},
            "there is no compiler for C++ here (looked for no-such-compiler)\nhint: install one",
        ),
        ({"CXX": "false"}, "`false` has failed"),
    ],
)
def test_building_needs_a_compiler(
    environment: dict[str, str], words: str, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    built = run("build", "my_quota.py")
    assert built.exit_code == 1 and words in built.output
    assert not (new / "build").exists()


def test_building_needs_cython(new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Cython", None)
    built = run("build", "my_quota.py")
    assert built.exit_code == 1
    assert "Cython is not installed\nhint: pip install 'pymesh-proxy[compile]'" in built.output


def test_bench_times_both_tiers(new: Path) -> None:
    timed = run("bench", "my_quota.py", "--config", "my_quota.yaml", "-H", "x-user: ann", "--calls", "1024", "--json")
    assert timed.exit_code == 0, timed.output
    found = json.loads(timed.output)
    hooks = ["MyQuota.on_request_headers", "MyQuota.on_response_headers"]
    assert [(one["hook"], one["tier"]) for one in found] == [(h, t) for h in hooks for t in ("interpreted", "in C")]
    assert all(0 < one["p10_ns"] <= one["median_ns"] <= one["p90_ns"] for one in found)


def test_bench_of_a_hook_that_fails_says_so(new: Path) -> None:
    text = (
        Path("my_quota.py")
        .read_text()
        .replace("user = request", 'raise RuntimeError("told to")\n        user = request')
    )
    Path("my_quota.py").write_text(text)
    timed = run("bench", "my_quota.py", "--calls", "1024")
    assert timed.exit_code == 1 and "on_request_headers: RuntimeError: told to" in timed.output
