"""Nodes as proxies describe themselves."""

import pytest

from pymesh.control.store.store import MeshOptions, Store
from pymesh.control.translate import translate
from pymesh.control.translate.proxy import Proxy, ProxyError
from pymesh.control.xds import pb


def test_istio_node() -> None:
    metadata = {"NAMESPACE": "shop", "LABELS": {"app": "web"}, "SERVICE_ACCOUNT": "w", "CLUSTER_ID": "c"}
    proxy = Proxy.parse("sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local", metadata, "envoy")
    assert proxy == Proxy("sidecar", "10.0.0.1", "web-1", "shop", {"app": "web"}, "w", "c", True)


def test_namespace_from_the_id() -> None:
    assert Proxy.parse("router~1.2.3.4~gw.edge~d", {}).namespace == "edge"


@pytest.mark.parametrize(
    ("node", "metadata"),
    [
        ("", {}),
        ("x~1~a.b~c", {}),
        ("sidecar~1~nameless~c", {}),
        ("sidecar~1~a.b~c", {"LABELS": "app=web"}),
        *(("sidecar~1~a.b~c", {"POD_PORTS": wrong}) for wrong in ("{", "{}", "[1]", 7.0)),
        *(("sidecar~1~a.b~c", {"UPSTREAM_MARK": wrong}) for wrong in ("0", "-1", "x", 2.0**32, "")),
    ],
)
def test_refused(node: str, metadata: dict[str, object]) -> None:
    with pytest.raises(ProxyError):
        Proxy.parse(node, metadata)


@pytest.mark.parametrize(
    "written",
    [
        '[{"name":"http","containerPort":8080,"protocol":"TCP"},{"name":"dns","containerPort":53,"protocol":"UDP"}]',
        [{"name": "http", "containerPort": 8080.0}, {"containerPort": 9.0}, {"name": "http", "containerPort": 8081.0}],
    ],
)
def test_ports_that_the_pod_names(written: object) -> None:
    assert Proxy.parse("sidecar~10.0.0.1~a.b~c", {"POD_PORTS": written}).ports == {"http": 8080}


@pytest.mark.parametrize("written", ["1338", 1338.0])
def test_every_connection_of_a_proxy_without_a_user_is_marked(written: object) -> None:
    metadata = {"INTERCEPTION_MODE": "REDIRECT", "UPSTREAM_MARK": written}
    made = translate(Store(MeshOptions()), Proxy.parse("sidecar~10.0.0.1~a.b~c", metadata)).messages[pb.CLUSTER]
    options = {name: one.upstream_bind_config.socket_options for name, one in made.items()}
    assert {"PassthroughCluster", "InboundPassthroughCluster"} <= set(options)
    assert all([(one.level, one.name, one.int_value) for one in found] == [(1, 36, 1338)] for found in options.values())
