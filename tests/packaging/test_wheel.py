"""What the wheel carries, and what is installed where nothing is built."""

from __future__ import annotations

import ast
import gzip
import inspect
import zipfile
from importlib import metadata
from pathlib import Path

from pymesh import _proxy  # noqa: TID251 - the stub is compared with it
from pymesh.control import ui

ROOT = Path(__file__).resolve().parents[2]


def wheel() -> zipfile.ZipFile:
    found = sorted((ROOT / "dist").glob("*.whl"))
    assert len(found) == 1, f"expected one wheel in dist, found {found}; run `make wheel`"
    return zipfile.ZipFile(found[0])


def test_the_only_name_that_the_wheel_claims_is_pymesh() -> None:
    names = {name.split("/")[0] for name in wheel().namelist()}
    assert {name for name in names if not name.endswith((".dist-info", ".libs"))} == {"pymesh"}


def test_both_planes_are_in_the_wheel() -> None:
    names = set(wheel().namelist())
    for name in (
        "pymesh/control/app.py",
        "pymesh/control/xds/proto/envoy.binpb",
        "pymesh/cli/main.py",
        "pymesh/dashboards/service.json",
        "pymesh/dashboards/alerts.yaml",
        "pymesh/filters/SPEC.md",
        "pymesh/filters/pymesh_filter.h",
        "pymesh/filters/native.hpp",
        "pymesh/filters/native.pxd",
        "pymesh/_proxy.pyi",
        "pymesh/py.typed",
    ):
        assert name in names, name
    assert any(name.startswith("pymesh/_proxy") and name.endswith(".so") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".rs")]


def test_every_file_of_the_control_plane_is_in_the_wheel() -> None:
    names = set(wheel().namelist())
    sources = [path.relative_to(ROOT) for path in (ROOT / "control").rglob("*.py") if "__pycache__" not in path.parts]
    assert sources
    assert [path for path in sources if f"pymesh/{path.as_posix()}" not in names] == []


def test_the_web_ui_is_in_the_wheel_and_small() -> None:
    files = wheel()
    ours = {f"pymesh/control/ui/static/{name}" for name in ui.FILES}
    assert {name for name in files.namelist() if name.startswith("pymesh/control/ui/static/")} == ours
    assert sum(len(gzip.compress(files.read(name), 9)) for name in ours) < 300_000
    for package in ("cytoscape", "uplot", "preact"):
        assert package in files.read("pymesh/control/ui/static/LICENSES.txt").decode()
    assert not [name for name in files.namelist() if "node_modules" in name]


def test_the_command_is_installed() -> None:
    scripts = metadata.entry_points(group="console_scripts")
    assert scripts["pymesh"].value == "pymesh.__main__:main"


def test_the_stub_says_what_the_extension_has() -> None:
    tree = ast.parse((ROOT / "pymesh" / "_proxy.pyi").read_text())
    stub = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    native = {name for name, value in vars(_proxy).items() if inspect.isbuiltin(value) or inspect.isclass(value)}
    assert stub == native
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            members = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
            fields = [one.target for one in node.body if isinstance(one, ast.AnnAssign)]
            members |= {field.id for field in fields if isinstance(field, ast.Name)}
            missing = [name for name in members if not hasattr(getattr(_proxy, node.name), name)]
            assert missing == [], f"{node.name}: {missing}"
