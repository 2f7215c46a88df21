"""Where every connected proxy's metrics are, as Prometheus's HTTP service discovery asks for it.

`http_sd_configs: [{url: http://HOST:PORT/prometheus/targets}]` scrapes all proxies of this control plane, and each that
comes later. Labels beside the address say who it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pymesh.control.live import scrape
from pymesh.control.live.collector import workload
from pymesh.control.live.scrape import ScrapeError
from pymesh.control.xds.fleet import Connection


def groups(connections: Iterable[Connection]) -> list[dict[str, Any]]:
    """A group for each proxy that tells where its metrics are; of two streams of one proxy the newer counts."""
    found: dict[str, dict[str, Any]] = {}
    for connection in connections:
        try:
            where = scrape.target(connection)
        except ScrapeError:
            continue
        namespace, name = workload(connection)
        host = f"[{where.host}]" if ":" in where.host else where.host
        labels = {"__metrics_path__": scrape.PATH, "namespace": namespace, "proxy": name}
        found[connection.node.id] = {"targets": [f"{host}:{where.port}"], "labels": labels}
    return list(found.values())
