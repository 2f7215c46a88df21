"""The proxy of this folder. Every test must leave it as empty as it was: that is judged here, once for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.flow.mesh import WAYS, Mesh
from tests.proxy.bootstrap import (
    Json,
    bootstrap,
    cluster,
    downstream_tls,
    http_listener,
    tcp_listener,
    to_cluster,
    upstream_tls,
    virtual_host,
)
from tests.proxy.running import Proxy
from tests.tools.certificates import Authority
from tests.tools.ports import free_port
from tests.tools.wire.origin import origin


@pytest.fixture(scope="module")
def whole_mesh(run_proxy: Callable[[Json], AbstractContextManager[Proxy]], authority: Authority) -> Iterator[Mesh]:
    """A proxy with a listener per way in, two for TCP, and an origin per way out."""
    pair = authority.issue("flow", dns=["localhost"])
    with ExitStack() as stack:
        origins, clusters = {}, []
        for name in WAYS:
            version, *secure = name.split("-")
            http2 = version == "http2"
            behind = stack.enter_context(origin(name, http2=http2, tls=pair if secure else None))
            tls = upstream_tls(str(authority.root), "localhost", alpn=["h2" if http2 else "http/1.1"])
            clusters.append(cluster(name, [behind.port], http2=http2, tls=tls if secure else None, idle_timeout="0.1s"))
            origins[name] = behind
        # No limit of time: a test that is slow because the machine is must not fail for it.
        hosts = [virtual_host("all", [to_cluster(n, f"/{n}/", prefix_rewrite="/", timeout="0s") for n in WAYS])]
        ports = {way: free_port() for way in (*WAYS, "tcp", "tcp-tls")}
        secured = downstream_tls(pair)
        listeners = [
            http_listener(ports[way], hosts, name=way, tls=secured if way.endswith("-tls") else None) for way in WAYS
        ]
        listeners.append(tcp_listener(ports["tcp"], "http1", name="tcp"))
        listeners.append(tcp_listener(ports["tcp-tls"], "http1-tls", name="tcp-tls", tls=secured))
        proxy = stack.enter_context(run_proxy(bootstrap(listeners, clusters, free_port())))
        yield Mesh(proxy, origins, ports, str(authority.root))


@pytest.fixture
def mesh(whole_mesh: Mesh) -> Iterator[Mesh]:
    """The proxy; afterwards it holds nothing that the test opened."""
    yield whole_mesh
    assert whole_mesh.proxy.process.alive(), whole_mesh.proxy.process.tail()
    assert whole_mesh.quiet(), whole_mesh.proxy.active()
