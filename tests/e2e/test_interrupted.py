"""Ctrl-C at any moment leaves no process: SIGINT, SIGTERM and SIGHUP, and SIGKILL, after which nobody can tidy up.

What is left is found by a mark in the environment, so that nothing the product says about itself is relied on. The
moments are events of the run, seen from outside, and points in time between them; no test passes or fails by how long
something took.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.proxy.bootstrap import bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import eventually
from tests.tools.marked import Mark
from tests.tools.ports import free_ports
from tests.tools.processes import accepts

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
PYMESH = [sys.executable, "-m", "pymesh"]
PATIENCE_S = 60
#: How each signal's obedience looks like from outside: the shell's numbers, or the signal itself before Python watches.
ENDINGS = {
    signal.SIGINT: (0, 130, -signal.SIGINT),
    signal.SIGTERM: (0, 143, -signal.SIGTERM),
    signal.SIGHUP: (0, 129, -signal.SIGHUP),
    signal.SIGKILL: (-signal.SIGKILL,),
}


class Run:
    """A started `pymesh ...` and everything below it."""

    def __init__(self, *words: str, temporary: Path) -> None:
        self.mark = Mark()
        self.output = temporary / "output"
        with self.output.open("wb") as sink:
            self.child = subprocess.Popen(
                [*PYMESH, *words],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=self.mark.environment(TMPDIR=str(temporary), COLUMNS="400"),
                start_new_session=True,
                # A shell in the background ignores Ctrl-C, and so would all that it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def says(self, text: str) -> bool:
        """Whether it comes to print this."""
        return eventually(lambda: text in self.output.read_text(), PATIENCE_S)

    def ends(self, number: signal.Signals, *before: signal.Signals) -> None:
        """Send the signal; the command ends by it, or by one of those sent `before`, and nothing is left of it."""
        self.child.send_signal(number)
        code = self.child.wait(PATIENCE_S)
        assert self.mark.all_gone(), self.mark.processes()
        said = self.output.read_text()
        # Before the first of our lines has run, what Ctrl-C looks like is Python's own affair.
        if "Traceback" in said and ("runpy" in said or "init_import_site" in said):
            assert "/pymesh/" not in said, said
        else:
            assert any(code in ENDINGS[one] for one in (number, *before)), (code, said)
            assert "Traceback" not in said, said


@contextmanager
def running(*words: str, temporary: Path) -> Iterator[Run]:
    run = Run(*words, temporary=temporary)
    try:
        yield run
    finally:
        for pid in run.mark.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.child.wait()


def shop(temporary: Path, *words: str) -> list[str]:
    return ["up", str(SHOP), "--port", "0", "--keep", str(temporary / "run"), *words]


def at(count: int) -> Callable[[Run], bool]:
    """The moment at which so many processes run."""
    return lambda run: eventually(lambda: len(run.mark.processes()) >= count, PATIENCE_S)


def after(seconds: float) -> Callable[[Run], bool]:
    def moment(run: Run) -> bool:
        time.sleep(seconds)
        return True

    return moment


#: The shop is 15 processes: `pymesh up`, the control plane, a gateway, six apps and their six sidecars.
MOMENTS: dict[str, Callable[[Run], bool]] = {
    "at once": after(0),
    "while modules load": after(0.3),
    "as the control plane starts": at(2),
    "in the middle of the start": at(8),
    "as the last one starts": at(15),
    "during traffic": lambda run: run.says("logs: ") and after(1.0)(run),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_a_mesh(moment: Callable[[Run], bool], number: signal.Signals, tmp_path: Path) -> None:
    with running(*shop(tmp_path), temporary=tmp_path) as run:
        assert moment(run), run.output.read_text()
        run.ends(number)


def test_a_mesh_whose_terminal_goes(tmp_path: Path) -> None:
    with running(*shop(tmp_path), temporary=tmp_path) as run:
        assert at(8)(run)
        run.ends(signal.SIGHUP)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_a_check_that_was_interrupted_has_not_passed(number: signal.Signals, tmp_path: Path) -> None:
    with running(*shop(tmp_path, "--check"), temporary=tmp_path) as run:
        assert run.says("kept"), run.output.read_text()
        run.ends(number)
        assert run.child.returncode == 128 + number


def test_signals_on_end_while_the_mesh_is_stopping(tmp_path: Path) -> None:
    with running(*shop(tmp_path), temporary=tmp_path) as run:
        assert run.says("logs: "), run.output.read_text()
        for _ in range(20):
            run.child.send_signal(signal.SIGINT)
            time.sleep(0.02)
        run.ends(signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
@pytest.mark.parametrize("delay", [0.05, 0.2, 0.35, None])
def test_a_proxy(number: signal.Signals, delay: float | None, tmp_path: Path) -> None:
    port, nobody, admin_port = free_ports(3)
    hosts = [virtual_host("all", [to_cluster("origin")])]
    file = tmp_path / "bootstrap.json"
    file.write_text(json.dumps(bootstrap([http_listener(port, hosts)], [cluster("origin", [nobody])], admin_port)))
    with running("proxy", "-c", str(file), temporary=tmp_path) as run:
        assert after(delay)(run) if delay is not None else eventually(lambda: accepts(port))
        run.ends(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
@pytest.mark.parametrize("delay", [0.05, 0.3, 0.6, None])
def test_a_control_plane(number: signal.Signals, delay: float | None, tmp_path: Path) -> None:
    words = ["control", "--config", str(SHOP / "config"), "--state", str(tmp_path / "state"), "--insecure-xds"]
    with running(*words, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", temporary=tmp_path) as run:
        assert after(delay)(run) if delay is not None else run.says("pymesh control ready")
        run.ends(number)
