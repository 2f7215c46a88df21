"""The way back: every resource that a proxy is sent leads to what the user wrote, for all the golden inputs.

Whoever adds a name to translation and not to `origins.py` learns of it here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from pymesh.control.resources.diagnostics import Position, Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, Store, build
from pymesh.control.store.workloads import Locality
from pymesh.control.translate import translate
from pymesh.control.translate.origins import Origins
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb
from tests.golden.test_golden import CASES, HERE

#: What capture brings, for which nobody wrote anything.
BUILT_IN = re.compile(
    r"virtualOutbound|virtualInbound|PassthroughCluster|InboundPassthroughCluster|BlackHoleCluster"
    # A table of which nothing is left but the answer to unknown hosts.
    r"|blackhole"
)


def proxies(case: str) -> Iterator[tuple[str, Store, Proxy]]:
    head, _, rest = (HERE / case / "in.yaml").read_text().partition("\n---\n")
    asked = yaml.safe_load(head)
    store, _ = build(load_text("in.yaml", rest, Report()), MeshOptions(**asked.get("options", {})))
    for one in asked["proxies"]:
        locality = Locality.parse(one.get("locality", ""))
        yield rest, store, Proxy.parse(one["id"], one.get("metadata", {}), one.get("userAgent", ""), locality)


@pytest.mark.parametrize("case", CASES)
def test_everything_leads_back(case: str) -> None:
    for text, store, proxy in proxies(case):
        origins, lines = Origins(store, proxy), text.splitlines()
        for named in translate(store, proxy).messages.values():
            for name, message in named.items():
                found = origins.of(message)
                assert found or BUILT_IN.fullmatch(name), f"{proxy.name}: {name} leads nowhere"
                assert all(_stands(one, lines) for one in found), f"{proxy.name}: {name}: {found}"


def _stands(at: Position, lines: list[str]) -> bool:
    return at.file == "in.yaml" and 0 < at.line <= len(lines)


@pytest.mark.parametrize(
    ("case", "path", "line"),
    [
        ("telemetry-tracing", "typed_config.tracing.custom_tags[0].tag", "- providers: [{name: otel-http}]"),
        ("telemetry-access-logs", "typed_config.access_log[0].filter.or_filter", "- providers: [{name: labels}]"),
        ("telemetry-metrics", "typed_config.http_filters[0].typed_config.metrics[0].dimensions", "- overrides:"),
    ],
)
def test_what_comes_of_a_telemetry_leads_to_the_closest(case: str, path: str, line: str) -> None:
    text, store, proxy = next(proxies(case))
    listener = translate(store, proxy).messages[pb.LISTENER]["127.0.0.1_8080"]
    found = Origins(store, proxy).of(listener, f"filter_chains[0].filters[0].{path}")
    assert text.splitlines()[found[0].line - 1].strip() == line
