"""Resources in, xDS out: every case is a pair of files.

`in.yaml` starts with a document `proxies:` (node id and metadata of each proxy, and the user agent and the locality
where they matter); the rest are the users' resources. `out.yaml` holds what each proxy is sent.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, build
from pymesh.control.store.workloads import Locality
from pymesh.control.translate import translate
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/in.yaml"))


def rendered(case: str) -> dict[str, Any]:
    head, _, rest = (HERE / case / "in.yaml").read_text().partition("\n---\n")
    asked = yaml.safe_load(head)
    report = Report()
    resources = load_text("in.yaml", rest, report)
    assert not report.diagnostics, "\n".join(map(str, report.diagnostics))
    store, warnings = build(resources, MeshOptions(**asked.get("options", {})))
    out: dict[str, Any] = {"warnings": [str(one) for one in warnings]}
    for described in asked["proxies"]:
        proxy = Proxy.parse(
            described["id"], described.get("metadata", {}), described.get("userAgent", ""), _locality(described)
        )
        made = translate(store, proxy)
        kinds = {url.rpartition(".")[2]: named for url, named in made.messages.items()}
        out[described["id"]] = {
            **{kind: [pb.to_json(named[name]) for name in sorted(named)] for kind, named in kinds.items() if named},
            "warnings": [str(one) for one in made.warnings],
        }
    return yaml.safe_load(yaml.safe_dump(_plain(out)))


def _locality(described: dict[str, Any]) -> Locality:
    return Locality.parse(described.get("locality", ""))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, request: pytest.FixtureRequest) -> None:
    path = HERE / case / "out.yaml"
    got = rendered(case)
    if request.config.getoption("--regen-golden", default=False):
        path.write_text(yaml.safe_dump(got, sort_keys=True, width=110))
    assert got == yaml.safe_load(path.read_text())


def test_there_are_cases() -> None:
    assert len(CASES) >= 12
