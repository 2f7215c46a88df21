"""The image's recipe names what there is: Debian's packages, the project's files, the proxy's user."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from pymesh.control.injection.inject import USER
from pymesh.control.install.objects import objects
from pymesh.control.install.values import Values

ROOT = Path(__file__).resolve().parents[2]
RECIPE = (ROOT / "deploy" / "Dockerfile").read_text()


def test_its_packages_are_debians() -> None:
    found = [name for line in re.findall(r"--no-install-recommends ([a-z0-9 -]+)", RECIPE) for name in line.split()]
    assert {"nftables", "iproute2"} <= set(found)
    known = subprocess.run(["apt-cache", "show", *found], capture_output=True, text=True, check=True).stdout
    assert set(found) <= set(re.findall(r"(?m)^Package: (\S+)$", known))


def test_what_it_copies_is_not_left_out() -> None:
    for name in re.findall(r"(?m)^COPY (\S+) ", RECIPE):
        assert name == "." or name.startswith("--from") or (ROOT / name).is_file(), name
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().split()
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    left_out = {name.split("/", 1)[0] for name in ignored}
    assert {name.split("/", 1)[0] for name in listed} & left_out <= {".ci", "ui"}


def test_its_user_is_the_one_that_the_capture_rules_and_the_manifests_know() -> None:
    assert f"USER {USER}:{USER}" in RECIPE
    pods = [one["spec"]["template"]["spec"] for one in objects(Values()) if one["kind"] == "Deployment"]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsUser"] == USER
        for container in pod["containers"]:
            # The entry point is said, so that another image with the same program does as well.
            assert container["command"] == ["pymesh"]
