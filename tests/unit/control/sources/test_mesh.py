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
