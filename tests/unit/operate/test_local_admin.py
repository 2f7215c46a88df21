"""Which control plane a command asks that is not told: the one that runs here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pymesh.local import announced
from pymesh.local.announced import Announced
from pymesh.operate import mesh
from pymesh.operate.mesh import DEFAULT_ADMIN, ControlPlane, PageError

HOLD = """
import os, sys
from pymesh.local.announced import announced
with announced("127.0.0.1:1", "/a", os.getuid()):
    print("told", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    # Whatever else runs on this machine.
    monkeypatch.setattr(mesh, "_listens", lambda _: False)
    return tmp_path


def test_nobody_runs() -> None:
    assert ControlPlane(None).address == DEFAULT_ADMIN


def test_one_runs_and_is_over_again() -> None:
    with announced.announced("127.0.0.1:1234", "/shop", os.getuid()):
        assert ControlPlane(None).address == "127.0.0.1:1234"
        assert ControlPlane("127.0.0.1:9").address == "127.0.0.1:9"
    assert announced.found() == []


def test_of_several_none_is_taken() -> None:
    with announced.announced("127.0.0.1:1", "/a", os.getuid()):
        held = subprocess.Popen(
            [sys.executable, "-c", HOLD.replace(":1", ":2").replace("/a", "/b")], stdin=-1, stdout=-1
        )
        assert held.stdout is not None
        assert held.stdout.readline() == b"told\n"
        try:
            wanted = (
                "several control planes run here: 127.0.0.1:1 (pymesh up /a), 127.0.0.1:2 (pymesh up /b)\nhint: name"
            )
            with pytest.raises(PageError, match=re.escape(wanted)):
                ControlPlane(None).page("/debug/syncz")
        finally:
            held.communicate()
        assert ControlPlane(None).address == "127.0.0.1:1"


def test_one_beside_the_usual_address_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "_listens", lambda address: address == DEFAULT_ADMIN)
    assert ControlPlane(None).address == DEFAULT_ADMIN
    with announced.announced("127.0.0.1:1", "/a", os.getuid()), pytest.raises(PageError, match=DEFAULT_ADMIN):
        assert ControlPlane(None).address


def test_one_that_was_killed_says_nothing_any_more() -> None:
    held = subprocess.Popen([sys.executable, "-c", HOLD], stdin=-1, stdout=-1)
    assert held.stdout is not None
    assert held.stdout.readline() == b"told\n"
    assert announced.found() == [Announced("127.0.0.1:1", "/a")]
    held.kill()
    held.communicate()
    assert announced.found() == []


def test_a_directory_of_others_is_not_believed(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(announced.tempfile, "gettempdir", lambda: str(runtime))
    folder = runtime / f"pymesh-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "up-1.json").write_text('{"admin": "127.0.0.1:666", "mesh": "/evil"}')
    assert announced.found() == []
    with announced.announced("127.0.0.1:1", "/a", os.getuid()):
        assert len(list(folder.iterdir())) == 1
    elsewhere = runtime / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (folder / "up-1.json").unlink()
    folder.rmdir()
    folder.symlink_to(elsewhere)
    with announced.announced("127.0.0.1:1", "/a", os.getuid()):
        assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"admin": 5}'])
def test_a_file_that_says_nothing(runtime: Path, text: str) -> None:
    import fcntl

    folder = runtime / "pymesh"
    folder.mkdir(mode=0o700)
    with (folder / "up-7.json").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(text)
        held.flush()
        assert announced.found() == []
