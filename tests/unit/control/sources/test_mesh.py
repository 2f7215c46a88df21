"""Folders are followed, and a bad change changes nothing."""

import asyncio
from pathlib import Path

from pymesh.control.sources.mesh import FileMesh

GOOD = "apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {ports: [{port: 80}]}\n"


def test_a_bad_file_keeps_the_last_good_set(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD % "a")
    mesh = FileMesh([tmp_path])
    assert mesh.load() == []
    (tmp_path / "b.yaml").write_text("kind: [")
    errors = mesh.load()
    assert len(errors) == 1
    assert f"{tmp_path / 'b.yaml'}:" in errors[0]
    assert list(mesh.store.services) == ["a.default.svc.cluster.local"]
    assert mesh.diagnostics()[0]["severity"] == "error"


def test_a_misspelt_field_hides_nothing_and_starts_no_avalanche(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text((GOOD % "a").replace("{ports:", "{prots: [], ports:"))
    rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: %s}\nspec: {host: %s}\n"
    (tmp_path / "b.yaml").write_text(rule % ("a", "a") + "---\n" + rule % ("b", "b"))
    errors = [error.partition(": ")[2] for error in FileMesh([tmp_path]).load()]
    assert errors == [
        "error: spec: unknown field 'prots'\n  hint: did you mean 'ports'?",
        "error: there is no service 'b'\n  hint: known: a, a.default, a.default.svc, a.default.svc.cluster.local",
    ]


def test_a_file_without_end_is_an_error_of_that_file(tmp_path: Path) -> None:
    head = "apiVersion: extensions.pymesh.dev/v1alpha1\nkind: PythonFilter\nmetadata: {name: f}\n"
    spec = "spec: {selector: {matchLabels: {a: b}}, class: 'f:F', "
    (tmp_path / "a.yaml").write_text(f"{head}{spec}source: 'x = 1{'+1' * 60000}'}}\n")
    (tmp_path / "b.yaml").write_text(f"{head}{spec}config: {'{k: ' * 600}1{'}' * 600}}}\n")
    (tmp_path / "c.yaml").write_text("[" * 100000)
    errors = [error.removeprefix(f"{tmp_path}/").partition("\n")[0] for error in FileMesh([tmp_path]).load()]
    assert errors == [
        "a.yaml:4:63: error: the filter's source is nested too deeply to be parsed",
        "b.yaml:1:1: error: the document is too deep, too large, or contains itself",
        "c.yaml:1:1001: error: not YAML: exceeded maximum nesting depth",
    ]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    (error,) = FileMesh([tmp_path / "no"]).load()
    assert "there is no such folder" in error


def test_a_change_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD % "a")
    mesh = FileMesh([tmp_path])
    mesh.load()

    async def follow() -> None:
        changed = asyncio.Event()
        watching = asyncio.create_task(mesh.watch(changed.set))
        # The watch starts at some time after the task: write until it is seen.
        for n in range(100):
            (tmp_path / "b.yaml").write_text(GOOD % f"b{n}")
            try:
                await asyncio.wait_for(changed.wait(), 0.2)
                break
            except TimeoutError:
                continue
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert changed.is_set()

    asyncio.run(follow())
    assert len(mesh.store.services) == 2
