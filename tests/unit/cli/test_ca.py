"""`pymesh ca` beside a control plane: what it shows, begins and refuses, and who may use it."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pymesh.cli.main import main
from pymesh.control.app import ControlPlane, StartError
from pymesh.control.identity import operator
from pymesh.control.identity.authority import fingerprint
from tests.tools.control import Mesh, control_plane, tokens


@pytest.fixture(name="plane")
def _plane(tmp_path: Path) -> Iterator[ControlPlane]:
    # Deeper than the system lets the name of a socket be.
    folder = tmp_path / ("state" * 20)
    with control_plane(tmp_path, Mesh(), state=folder, tokens=tokens(tmp_path, "token")) as plane:
        yield plane


def ca(plane: ControlPlane, *words: str) -> Result:
    return CliRunner().invoke(main, ["ca", *words, "--state", str(plane._settings.state)])


def said(plane: ControlPlane, *words: str) -> str:
    done = ca(plane, *words)
    assert done.exit_code == 0, done.output
    return done.output


def test_each_phase_is_begun_and_shown(plane: ControlPlane) -> None:
    old = fingerprint(plane.rotation.trust.signer.root)
    shown = said(plane, "show").splitlines()
    assert shown[0] == "phase      steady"
    assert shown[1].startswith(f"authority  {old}  signs     until 20")
    assert shown[2].startswith(f"root       {old}     0 certificates  until 20")
    prepared = said(plane, "prepare")
    assert "phase      prepared" in prepared and "  to come   until" in prepared
    assert prepared.endswith("next       pymesh ca activate\n")
    activated = said(plane, "activate")
    assert "phase      activated" in activated and "  to go     until" in activated
    assert activated.endswith("next       pymesh ca revoke\n")
    assert "phase      steady" in said(plane, "revoke")
    assert old not in said(plane, "show")
    status = json.loads(said(plane, "show", "--json"))
    assert (status["phase"], status["supplied"], len(status["roots"])) == ("steady", False, 1)


def test_all_of_it_at_once(plane: ControlPlane) -> None:
    old = plane.rotation.trust.signer
    assert [line.partition(":")[0] for line in said(plane, "rotate").splitlines()] == [
        "prepared", "activated", "revoked",
    ]  # fmt: skip
    assert plane.rotation.trust.signer is not old
    said(plane, "prepare")
    said(plane, "activate")
    assert said(plane, "rotate").startswith("revoked"), "from whichever phase it is in"


def test_what_is_refused_says_why(plane: ControlPlane) -> None:
    for words, told in [
        (("activate",), "error: no authority is prepared; hint: prepare one first\n"),
        (("revoke",), "error: there is one authority, which signs; hint: prepare and activate another first\n"),
        (("rotate", "--timeout", "soon"), "error: --timeout 'soon' is not a duration; hint: write 5m or 30s\n"),
    ]:
        done = ca(plane, *words)
        assert (done.exit_code, done.output) == (1, told)
    said(plane, "prepare")
    other = plane.rotation.trust.authorities[1].id
    assert "it is" not in said(plane, "revoke", "--authority", other)
    assert plane.rotation.trust.phase == "steady"


def test_without_a_control_plane(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["ca", "show", "--state", str(tmp_path)])
    assert done.exit_code == 1
    assert done.output.startswith(f"error: no control plane answers in {tmp_path}: ")
    assert done.output.endswith("hint: --state is that of `pymesh control`\n")


def test_the_door_is_for_its_owner_and_for_one_control_plane(plane: ControlPlane, tmp_path: Path) -> None:
    folder = plane._settings.state
    assert stat.S_IMODE((folder / operator.SOCKET).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with pytest.raises(StartError, match="another control plane uses the state folder"):
        ControlPlane(plane._settings, Mesh())


def test_the_door_is_gone_with_its_control_plane_and_a_crash_leaves_none_shut(tmp_path: Path) -> None:
    settings = {"tokens": tokens(tmp_path, "token")}
    door = tmp_path / "state" / operator.SOCKET
    with control_plane(tmp_path, Mesh(), **settings):  # type: ignore[arg-type]
        assert door.exists()
    assert not door.exists()
    operator.listening(tmp_path / "state").close()
    assert door.exists(), "as a crash leaves it"
    with control_plane(tmp_path, Mesh(), **settings) as plane:  # type: ignore[arg-type]
        assert "phase      steady" in said(plane, "show")


def test_what_is_shown_and_told_has_no_key(plane: ControlPlane) -> None:
    found = said(plane, "prepare") + said(plane, "show", "--json")
    assert "PRIVATE" not in found and "BEGIN" not in found
