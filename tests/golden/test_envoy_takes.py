"""Real Envoy, and our own proxy, take everything that the golden pairs say a proxy is sent."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pymesh import _bridge
from pymesh.control.resources.closed import closed
from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, Store, build
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
        _taken(store, described, tmp_path / str(number))


def _taken(store: Store, described: dict[str, Any], file: Path) -> None:
    """Whether ours and real Envoy take what a proxy is sent."""
    locality = Locality.parse(described.get("locality", ""))
    metadata = described.get("metadata", {})
    ours, theirs = file.with_suffix(".json"), file.with_suffix(".pb")
    made = translate(store, Proxy.parse(described["id"], metadata, "", locality))
    ours.write_text(json.dumps(pb.to_json(static_bootstrap.static(made))))
    assert _bridge.validate(ours) == []
    # A companion gives Envoy its certificates, in whatever proxy the case is about.
    proxy = Proxy.parse(described["id"], metadata, "envoy", locality)
    theirs.write_bytes(pb.encode(static_bootstrap.static(translate(store, proxy))))
    with running([peer("envoy"), "--mode", "validate", "-c", str(theirs)], title="envoy") as judge:
        assert judge.wait(60) == 0, judge.tail()


#: Kind -> a spec that cannot be used.
UNUSABLE = {
    "AuthorizationPolicy": {"rules": [{"surprise": 1}]},
    "PeerAuthentication": {"mtls": {"mode": "STRIKT"}},
    "RequestAuthentication": {"jwtRules": [{"issuer": "i", "jwks": "{", "fromHeaders": [{"name": "x-jwt"}]}]},
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_both_take_what_stands_in_for_what_cannot_be_used(kind: str, tmp_path: Path) -> None:
    _, _, rest = (HERE / "captured-sidecar" / "in.yaml").read_text().partition("\n---\n")
    head = {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": "p", "namespace": "shop"}}
    instead = closed({**head, "spec": UNUSABLE[kind]})
    assert instead is not None
    metadata = {"NAMESPACE": "shop", "CLUSTER_ID": "local", "LABELS": {"app": "web"}, "INTERCEPTION_MODE": "REDIRECT"}
    proxy = {"id": "sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local", "metadata": metadata}
    permissive = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: z, namespace: shop}\n"
    written = load_text("in.yaml", f"{rest}\n---\n{permissive}spec: {{mtls: {{mode: PERMISSIVE}}}}\n", Report())
    sent = []
    for resources in (written, [instead, *written]):
        store, _ = build(resources)
        sent.append(translate(store, Proxy.parse(proxy["id"], metadata)).messages)
    assert sent[0] != sent[1], "it says something"
    _taken(store, proxy, tmp_path / "0")
