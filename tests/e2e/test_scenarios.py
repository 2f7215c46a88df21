"""Every scenario of the shop, played as a user plays it; and the ways in which one may fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pymesh.local import check

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples" / "shop"
SCENARIOS = sorted(file.stem for file in (SHOP / "scenarios").glob("*.yaml"))


def play(shop: Path, keep: Path, *names: str, timeout: float = 560) -> subprocess.CompletedProcess[str]:
    words = [word for name in names for word in ("--scenario", name)]
    return subprocess.run(
        [sys.executable, "-m", "pymesh", "up", str(shop), *words, "--check", "--port", "0", "--keep", str(keep)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd="/",
        env={**os.environ, "COLUMNS": "400"},
        check=False,
    )


def test_every_scenario_holds(tmp_path: Path) -> None:
    done = play(SHOP, tmp_path / "run", "all")
    broken = [line for line in done.stdout.splitlines() if line.startswith("  broken")]
    assert (done.returncode, broken) == (0, []), done.stdout + done.stderr
    for name in SCENARIOS:
        assert f"\n{name}: " in done.stdout, name
    assert check.leftovers(tmp_path / "run") == []


def test_what_does_not_hold_is_shown_and_counts(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(SHOP, shop)
    (shop / "scenarios" / "wrong.yaml").write_text(
        "apiVersion: local.pymesh.dev/v1alpha1\n"
        "kind: Scenario\n"
        "metadata: {name: wrong}\n"
        "spec:\n"
        "  shows: an expectation that cannot hold\n"
        "  steps:\n"
        "    - title: the shop is a teapot\n"
        "      send: {path: /products/1, count: 3}\n"
        "      expect: [{status: 418}]\n"
        "      within: 1s\n"
    )
    done = play(shop, tmp_path / "run", "wrong")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "broken the shop is a teapot: status: 200 x 3" in done.stdout
    assert check.leftovers(tmp_path / "run") == []


def test_a_name_that_no_scenario_has(tmp_path: Path) -> None:
    done = play(SHOP, tmp_path / "run", "canari")
    assert done.returncode == 1
    assert "there is no scenario 'canari'; hint: did you mean 'canary'?" in done.stderr
