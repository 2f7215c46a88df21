"""Nodes as proxies describe themselves."""

import pytest

from pymesh.control.translate.proxy import Proxy, ProxyError


def test_istio_node() -> None:
    metadata = {"NAMESPACE": "shop", "LABELS": {"app": "web"}, "SERVICE_ACCOUNT": "w", "CLUSTER_ID": "c"}
    proxy = Proxy.parse("sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local", metadata, "envoy")
    assert proxy == Proxy("sidecar", "10.0.0.1", "web-1", "shop", {"app": "web"}, "w", "c", True)


def test_namespace_from_the_id() -> None:
    assert Proxy.parse("router~1.2.3.4~gw.edge~d", {}).namespace == "edge"


@pytest.mark.parametrize(
    ("node", "metadata"),
    [("", {}), ("x~1~a.b~c", {}), ("sidecar~1~nameless~c", {}), ("sidecar~1~a.b~c", {"LABELS": "app=web"})],
)
def test_refused(node: str, metadata: dict[str, object]) -> None:
    with pytest.raises(ProxyError):
        Proxy.parse(node, metadata)
