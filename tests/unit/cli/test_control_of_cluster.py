"""`pymesh control` as an installation starts it looks only where the installation's rights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pymesh.cli.main import main
from pymesh.control import app
from pymesh.control.install.objects import SETTINGS, SETTINGS_KEY, objects
from pymesh.control.install.values import Values

KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "c",
}


@pytest.mark.parametrize("namespace", ["istio-system", "mesh"])
def test_what_holds_for_the_whole_mesh_is_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    started: list[Any] = []

    def run(settings: Any, mesh: Any, **_: Any) -> int:
        started.append(mesh)
        return 0

    monkeypatch.setattr(app, "run", run)
    config = tmp_path / "kubeconfig"
    config.touch(mode=0o600)
    config.write_text(yaml.safe_dump(KUBECONFIG))
    made = objects(Values(namespace=namespace))
    deployment = next(one for one in made if (one["kind"], one["metadata"]["name"]) == ("Deployment", "pymesh-control"))
    (settings,) = [one for one in made if (one["kind"], one["metadata"]["name"]) == ("ConfigMap", SETTINGS)]
    (tmp_path / SETTINGS_KEY).write_text(settings["data"][SETTINGS_KEY])
    # The volume is here.
    arguments = [
        str(tmp_path / SETTINGS_KEY) if one.endswith(f"/{SETTINGS_KEY}") else one
        for one in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    ]
    done = CliRunner().invoke(main, [*arguments, "--kubeconfig", str(config)])
    assert done.exit_code == 0, done.output
    (mesh,) = started
    assert mesh.store.options.root_namespace == namespace
    (kind,) = [one.kind for one in mesh.reflectors if one.kind.name == "ConfigMap"]
    rights = {
        f"/api/v1/namespaces/{one['metadata']['namespace']}/{resource}"
        for one in made
        if one["kind"] == "Role"
        for rule in one["rules"]
        if "resourceNames" not in rule and {"list", "watch"} <= set(rule["verbs"])
        for resource in rule["resources"]
    }
    assert kind.path("v1") in rights
