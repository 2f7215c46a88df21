"""A filter of `examples/filters/`, in the harness or in a running proxy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymesh.testing import FilterHarness
from tests.proxy.bootstrap import bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, ours
from tests.tools.ports import free_ports
from tests.tools.wire.client import Answer, fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import Origin, origin

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "filters"
_TYPES = "type.googleapis.com"


def source(name: str) -> str:
    """The text of an example."""
    return (EXAMPLES / f"{name}.py").read_text()


def harness(class_path: str, config: Mapping[str, Any], **options: Any) -> FilterHarness:
    """The example `module:Class` in a harness."""
    return FilterHarness.from_source(class_path, source(class_path.partition(":")[0]), config, **options)


@dataclass(frozen=True)
class Deployed:
    """Examples in a running proxy, and the origin behind it."""

    proxy: Proxy
    behind: Origin

    def ask(
        self, headers: Mapping[str, str] | None = None, body: bytes = b"", *, method: str = "GET", path: str = "/"
    ) -> Answer:
        """One request."""
        fields = list((headers or {}).items())
        return fetch(self.proxy.port, Request(method, path, "shop.test", fields), body)

    def reached(self, name: str) -> str | None:
        """A header of the last request that reached the origin."""
        return self.behind.requests[-1].header(name)


@contextmanager
def deployed(*filters: tuple[str, Mapping[str, Any]], to: Deployed | None = None, **fields: Any) -> Iterator[Deployed]:
    """A proxy with these examples, each `module:Class` with its config, in this order; `to` is the proxy behind it."""
    port, admin = free_ports(2)
    chain = [
        {
            "name": class_path,
            "typed_config": {
                "@type": f"{_TYPES}/pymesh.filters.v1.PythonFilter",
                "name": class_path.partition(":")[0],
                "class": class_path,
                "source": source(class_path.partition(":")[0]),
                "config": dict(config),
                "timeout": "5s",
                **fields,
            },
        }
        for class_path, config in filters
    ]
    chain.append(
        {"name": "router", "typed_config": {"@type": f"{_TYPES}/envoy.extensions.filters.http.router.v3.Router"}}
    )
    with nullcontext(to.behind) if to else origin() as behind:
        hosts = [virtual_host("all", [to_cluster("next")])]
        listener = http_listener(port, hosts, http_filters=chain)
        next_port = to.proxy.port if to else behind.port
        with ours(bootstrap([listener], [cluster("next", [next_port])], admin)) as proxy:
            yield Deployed(proxy, behind)
