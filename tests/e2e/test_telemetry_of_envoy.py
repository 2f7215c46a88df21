"""A real Envoy among the sidecars acts by the same Telemetry resources: traces are whole with it between ours.

Its connections keep the listener that they began with, so the resources are there before it starts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.tools.peers import peer

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples" / "shop"


def test_its_spans_are_part_of_the_whole(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(SHOP, shop)
    scenario, *resources = yaml.safe_load_all((SHOP / "scenarios" / "tracing.yaml").read_text())
    mesh = yaml.safe_load((shop / "mesh.yaml").read_text())
    mesh["spec"]["apps"] += scenario["spec"]["apps"]
    (shop / "mesh.yaml").write_text(yaml.safe_dump(mesh))
    (shop / "config" / "telemetry.yaml").write_text(yaml.safe_dump_all(resources))
    scenario["metadata"]["name"] = "whole"
    # Every request is traced, and the collector has all of it; Envoy keeps spans for five seconds.
    spec = {"shows": "an Envoy in the middle of a trace", "steps": scenario["spec"]["steps"][:2]}
    spec["steps"][1]["expect"] = [one for one in spec["steps"][1]["expect"] if one["json"] == "largest.services"]
    for step in spec["steps"]:
        step["within"] = "60s"
    (shop / "scenarios" / "whole.yaml").write_text(yaml.safe_dump({**scenario, "spec": spec}))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pymesh", "up", str(shop), "--scenario", "whole", "--check", "--port", "0"),
            *("--envoy", "web", "--keep", str(tmp_path / "run")),
        ],
        capture_output=True,
        text=True,
        timeout=400,
        cwd="/",
        env={**os.environ, "COLUMNS": "400", "PATH": f"{Path(peer('envoy')).parent}:{os.environ['PATH']}"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "web.shop" in done.stdout
