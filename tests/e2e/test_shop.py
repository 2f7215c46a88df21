"""The shop as a user runs it: real processes, real bytes, from the installed package."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pymesh.local import check
from tests.proxy.running import eventually
from tests.tools import peers

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples" / "shop"
PYMESH = [sys.executable, "-m", "pymesh"]


def run(*words: str, timeout: float = 180, **env: str) -> subprocess.CompletedProcess[str]:
    """`pymesh ...` from outside the source tree, so that the installed package runs."""
    return subprocess.run(
        [*PYMESH, *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd="/",
        env={**os.environ, "COLUMNS": "400", **env},
        check=False,
    )


def test_the_shop_keeps_its_promises(tmp_path: Path) -> None:
    done = run("up", str(SHOP), "--check", "--port", "0", "--keep", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kept") == len(check.PROMISES), done.stdout
    assert check.leftovers(tmp_path / "run") == []


def test_a_real_envoy_is_one_of_the_sidecars(tmp_path: Path) -> None:
    path = os.pathsep.join((str(Path(peers.peer("envoy")).parent), os.environ["PATH"]))
    folder = tmp_path / "run"
    done = run("up", str(SHOP), "--check", "--port", "0", "--envoy", "reviews-v2", "--keep", str(folder), PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert check.leftovers(folder) == []


def test_a_file_that_is_broken_while_the_mesh_runs_is_told(tmp_path: Path) -> None:
    folder, output = tmp_path / "run", tmp_path / "output"
    words = [*PYMESH, "up", str(SHOP), "--port", "0", "--keep", str(folder)]

    def says(text: str) -> bool:
        return eventually(lambda: text in output.read_text(), 60)

    with output.open("wb") as sink:
        process = subprocess.Popen(
            words, stdout=sink, stderr=subprocess.STDOUT, cwd="/", env={**os.environ, "COLUMNS": "400"}
        )
    try:
        assert says("logs: "), output.read_text()
        (config,) = (path.parent for path in (folder / "config").rglob("gateway.yaml"))
        broken = config / "broken.yaml"
        broken.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: broken}\nspec:\n  portz: []\n")
        assert says(f"configuration: {broken}:5:3: error: "), output.read_text()
        assert says("hint: did you mean 'ports'?"), output.read_text()
        broken.unlink()
        assert says("configuration: nothing is wrong with it any more"), output.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert check.leftovers(folder) == []


def test_ctrl_c_at_any_moment_leaves_no_process(tmp_path: Path) -> None:
    for number, delay in enumerate((0.3, 1.0, 2.5)):
        folder = tmp_path / str(number)
        words = [*PYMESH, "up", str(SHOP), "--port", "0", "--keep", str(folder)]
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, cwd="/", start_new_session=True
        )
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) in (0, -signal.SIGINT, 130)
        assert check.leftovers(folder) == []


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("up", str(SHOP), "--port", str(port), "--keep", str(tmp_path))
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1, for gateway ingress, is in use" in done.stdout


def test_a_missing_program_is_one_clear_line(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(SHOP, shop)
    text = (shop / "mesh.yaml").read_text().replace("[python3, apps/ratings.py]", "[no-such-program]")
    (shop / "mesh.yaml").write_text(text)
    done = run("up", str(shop), "--check", "--port", "0", "--keep", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "ratings: there is no program 'no-such-program'" in done.stdout
    assert check.leftovers(tmp_path / "run") == []


def test_every_error_of_a_mesh_file_is_told_at_once(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(SHOP, shop)
    text = (shop / "mesh.yaml").read_text()
    text = text.replace("version: v2", "verzion: v2").replace("readiness: /healthz", "readyness: /healthz", 1)
    (shop / "mesh.yaml").write_text(text)
    done = run("up", str(shop), "--check")
    assert done.returncode == 1
    assert "unknown field 'verzion'" in done.stderr
    assert "hint: did you mean 'readiness'?" in done.stderr
    assert done.stderr.count("mesh.yaml:") == 2, done.stderr


def test_a_call_to_nobody_is_told(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(SHOP, shop)
    text = (shop / "mesh.yaml").read_text().replace("calls: [ratings]", "calls: [rating]")
    (shop / "mesh.yaml").write_text(text)
    done = run("up", str(shop), "--check")
    assert done.returncode == 1
    assert "reviews-v2 calls 'rating', which no app offers" in done.stderr


def test_bad_resources_are_told_with_their_places(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(SHOP, shop)
    file = shop / "config" / "reviews.yaml"
    file.write_text(
        file.read_text().replace("hosts: [reviews]", "hotss: [reviews]").replace("weight: 80", "wieght: 80")
    )
    done = run("up", str(shop), "--check", "--port", "0", "--keep", str(tmp_path / "run"))
    assert done.returncode == 1
    log = (tmp_path / "run" / "logs" / "control.log").read_text()
    assert "reviews.yaml:10:" in log
    assert "unknown field 'wieght'" in log
    assert "unknown field 'hotss'" in log


@pytest.mark.parametrize("name", ["VirtualService", "missing"])
def test_a_bad_bootstrap_is_refused_with_every_error(tmp_path: Path, name: str) -> None:
    file = tmp_path / "bootstrap.yaml"
    if name == "missing":
        done = run("proxy", "-c", str(file))
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {file}: ")
        return
    lines = ["node: {idd: x}", "static_resources:", "  listeners:", "  - nane: a", "    adress: {}"]
    file.write_text("\n".join([*lines, "hds_config: {}", ""]))
    done = run("proxy", "--mode", "validate", "-c", str(file))
    assert done.returncode == 1
    for place in (f"{file}:1:8:", f"{file}:4:5:", f"{file}:5:5:", f"{file}:6:1:"):
        assert place in done.stderr, done.stderr
