"""The command's root: every verb is there, and none is imported before it is used."""

from __future__ import annotations

import subprocess
import sys

from click.testing import CliRunner

from pymesh.cli.main import VERBS, LazyGroup, main


def test_every_verb_has_a_command() -> None:
    assert isinstance(main, LazyGroup)
    runner = CliRunner()
    for verb in VERBS:
        done = runner.invoke(main, [verb, "--help"])
        assert done.exit_code == 0, done.output
        assert VERBS[verb] in done.output


def test_an_unknown_verb_is_an_error() -> None:
    done = CliRunner().invoke(main, ["prxy"])
    assert done.exit_code == 2
    assert "No such command 'prxy'" in done.output


def test_the_proxy_does_not_pay_for_the_control_plane() -> None:
    code = (
        "import sys, pymesh.cli.main as m; m.main.get_command(None, 'proxy');"
        "print([n for n in sys.modules if n.split('.')[0] in ('uvloop', 'grpclib', 'cryptography', 'google', 'yaml')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
