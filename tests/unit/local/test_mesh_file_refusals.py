"""Wrong mesh files: the exact text, with place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymesh.local import meshfile
from pymesh.local.meshfile import MeshFileError

LABEL = "lower-case letters, digits and '-', at most 63; it starts and ends with a letter or digit"
HEAD = "apiVersion: local.pymesh.dev/v1alpha1\nkind: LocalMesh\nmetadata: {name: mine}\nspec:\n  config: [config]\n"


def mesh(*apps: str, more: str = "", head: str = HEAD) -> str:
    """A mesh file of these apps; the first of them is in line 7."""
    return f"{head}  apps:\n" + "".join(f"    - {one}\n" for one in apps) + more


def app(more: str = "", name: str = "web", ports: str = "{http: PORT}") -> str:
    return f"{{name: {name}, command: [a], ports: {ports}{more}}}"


CASES = {
    "nothing": ("", "mesh.yaml: error: is empty"),
    "no YAML": ("a: [", "mesh.yaml:2:1: error: is not YAML: did not find expected node content"),
    "two documents": (
        f"{mesh(app())}---\n{mesh(app())}",
        "mesh.yaml:8:1: error: is not YAML: but found another document",
    ),
    "a list": ("- a\n", "mesh.yaml:1:1: error: LocalMesh: expected a mapping, found a list"),
    "another kind": (
        mesh(app()).replace("LocalMesh", "Mesh"),
        "mesh.yaml:2:7: error: kind: 'Mesh' is not supported\n  hint: did you mean 'LocalMesh'?",
    ),
    "another version": (
        mesh(app()).replace("v1alpha1", "v1"),
        "mesh.yaml:1:13: error: apiVersion: 'local.pymesh.dev/v1' is not supported\n"
        "  hint: did you mean 'local.pymesh.dev/v1alpha1'?",
    ),
    "a name that is none": (
        mesh(app(name="Web")),
        f"mesh.yaml:7:14: error: apps[0]: 'Web' is not a DNS label\n  hint: {LABEL}",
    ),
    "a misspelt field": (
        mesh(app(", replica: 2")),
        "mesh.yaml:7:54: error: apps[0]: unknown field 'replica'\n  hint: did you mean 'replicas'?",
    ),
    "no command": (
        mesh("{name: web, command: [], ports: {http: PORT}}"),
        "mesh.yaml:7:28: error: apps[0]: the command is empty\n  hint: write it as in [python3, apps/web.py]",
    ),
    "no port": (
        mesh(app(ports="{}")),
        "mesh.yaml:7:40: error: apps[0]: an app needs a port\n  hint: write it as in {http: PORT}",
    ),
    "a number for a port": (
        mesh(app(ports="{http: '8080'}")),
        "mesh.yaml:7:40: error: apps[0]: http: '8080' is not the name of an environment variable\n"
        "  hint: the mesh picks the port and tells the app in a variable: {http: PORT}",
    ),
    "too many replicas": (
        mesh(app(", replicas: 101")),
        "mesh.yaml:7:64: error: replicas: 101 is out of range\n  hint: 1 to 100",
    ),
    "a locality that is none": (
        mesh(app(", locality: a/b/c/d")),
        "mesh.yaml:7:64: error: apps[0]: 'a/b/c/d' is no locality\n  hint: REGION, REGION/ZONE or REGION/ZONE/SUBZONE",
    ),
    "readiness": (
        mesh(app(", readiness: healthz")),
        "mesh.yaml:7:65: error: apps[0]: 'healthz' is not a path\n  hint: it starts with '/'",
    ),
    "two of a name": (
        mesh(app(), app()),
        "mesh.yaml:7:5: error: spec: the name 'web' is used twice\n  hint: apps and gateways have names of their own",
    ),
    "nobody offers it": (
        mesh(app(", calls: [webb]")),
        "mesh.yaml:7:5: error: spec: web calls 'webb', which no app offers\n  hint: did you mean 'web'?",
    ),
    "traffic for nobody": (
        mesh(app(), more="  traffic: {gateway: edge}\n"),
        "mesh.yaml:8:12: error: spec: there is no gateway 'edge'\n  hint: add one to gateways",
    ),
    "traffic without a path": (
        mesh(app(), more="  gateways: [{name: edge, labels: {a: b}}]\n  traffic: {gateway: edge, path: x}\n"),
        "mesh.yaml:9:34: error: traffic: 'x' is not a path\n  hint: it starts with '/'",
    ),
    "too much traffic": (
        mesh(app(), more="  gateways: [{name: edge, labels: {a: b}}]\n  traffic: {gateway: edge, perSecond: 5000}\n"),
        "mesh.yaml:9:39: error: perSecond: 5000 is out of range\n  hint: 1 to 1000",
    ),
    "no such folder": (
        mesh(app()).replace("[config]", "[confg]"),
        "mesh.yaml:5:11: error: there is no folder FOLDER/confg\n  hint: it stands beside the mesh file",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_mesh_file(name: str, tmp_path: Path) -> None:
    text, expected = CASES[name]
    folder = tmp_path.resolve()
    (folder / "config").mkdir()
    (folder / "mesh.yaml").write_text(text)
    with pytest.raises(MeshFileError) as caught:
        meshfile.read(folder)
    assert str(caught.value).replace(f"{folder}/mesh.yaml", "mesh.yaml") == expected.replace("FOLDER", str(folder))


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(mesh(app(name="A"), app(", readiness: x"), more="  trafic: {}\n"))
    with pytest.raises(MeshFileError) as caught:
        meshfile.read(tmp_path)
    assert str(caught.value).count("error: ") == 3, caught.value


def test_no_mesh_file(tmp_path: Path) -> None:
    with pytest.raises(MeshFileError, match=r"mesh\.yaml: error: cannot be read: No such file or directory\n  hint: a"):
        meshfile.read(tmp_path)
