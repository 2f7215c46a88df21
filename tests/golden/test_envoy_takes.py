"""Real Envoy, and our own proxy, take everything that the golden pairs say a proxy is sent."""

import json
from pathlib import Path

import pytest
import yaml

from pymesh import _bridge
from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, build
from pymesh.control.store.workloads import Locality
from pymesh.control.translate import bootstrap as static_bootstrap
from pymesh.control.translate import translate
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb
from tests.tools.certificates import Authority
from tests.tools.peers import peer
from tests.tools.processes import running

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/in.yaml"))


@pytest.mark.parametrize("case", CASES)
def test_both_take_every_resource(case: str, tmp_path: Path) -> None:
    # Files that a case names must be there.
    Authority(tmp_path).issue("c", dns=["c.example"])
    text = (HERE / case / "in.yaml").read_text().replace("/etc/pem/", f"{tmp_path}/")
    head, _, rest = text.partition("\n---\n")
    asked = yaml.safe_load(head)
    store, _ = build(load_text("in.yaml", rest, Report()), MeshOptions(**asked.get("options", {})))
    for number, described in enumerate(asked["proxies"]):
        locality = Locality.parse(described.get("locality", ""))
        metadata = described.get("metadata", {})
        ours = tmp_path / f"{number}.json"
        made = translate(store, Proxy.parse(described["id"], metadata, "", locality))
        ours.write_text(json.dumps(pb.to_json(static_bootstrap.static(made))))
        assert _bridge.validate(ours) == []
        # A companion gives Envoy its certificates, in whatever proxy the case is about.
        proxy = Proxy.parse(described["id"], metadata, "envoy", locality)
        file = tmp_path / f"{number}.pb"
        file.write_bytes(pb.encode(static_bootstrap.static(translate(store, proxy))))
        with running([peer("envoy"), "--mode", "validate", "-c", str(file)], title="envoy") as judge:
            assert judge.wait(60) == 0, judge.tail()
