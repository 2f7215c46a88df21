"""The wheel as a stranger installs it: a new environment, no Rust anywhere on PATH, and the demo holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what it asks for, and nothing else."""
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    assert len(wheels) == 1, f"expected one wheel in dist, found {wheels}; run `make wheel`"
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", str(folder))
    pinned = ["-c", str(ROOT / "requirements.lock")]
    run(str(folder / "bin" / "pip"), "install", "--quiet", "--only-binary", ":all:", *pinned, str(wheels[0]))
    return folder


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run to a good end, from outside the source tree, on a PATH that leads to no compiler of ours."""
    done = subprocess.run(
        words, capture_output=True, text=True, cwd="/", env={**without_rust(), **env}, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def without_rust() -> dict[str, str]:
    path = [entry for entry in os.environ["PATH"].split(os.pathsep) if not shutil.which("cargo", path=entry)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CARGO", "RUST", "PYTHON"))}
    return {**kept, "PATH": os.pathsep.join(path), "COLUMNS": "400"}


def test_there_is_no_rust() -> None:
    assert shutil.which("cargo", path=without_rust()["PATH"]) is None


def test_the_demo_holds(environment: Path, tmp_path: Path) -> None:
    shop = shutil.copytree(ROOT / "examples" / "shop", tmp_path / "shop")
    done = run(str(environment / "bin" / "pymesh"), "up", str(shop), "--check", "--port", "0")
    assert "broken" not in done.stdout


def test_what_is_installed_fits_together(environment: Path) -> None:
    run(str(environment / "bin" / "pip"), "check")
    shown = run(str(environment / "bin" / "pymesh"), "version").stdout
    assert shown.startswith("pymesh ")
    assert "data plane" in shown


def test_an_extension_that_does_not_load_is_told_with_its_remedy(environment: Path, tmp_path: Path) -> None:
    """As on a platform that the wheel was not built for."""
    package = next((environment / "lib").glob("python*/site-packages/pymesh"))
    copy = shutil.copytree(package, tmp_path / "pymesh")
    for extension in copy.glob("_proxy*.so"):
        extension.write_bytes(b"not for this machine")
    done = subprocess.run(
        [str(environment / "bin" / "python"), "-m", "pymesh", "proxy", "-c", "bootstrap.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=without_rust(),
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the data plane cannot be loaded: "), done.stderr
    assert "hint: install the wheel for this platform" in done.stderr
    assert "Traceback" not in done.stderr
