"""A real Prometheus that scrapes a mesh, by the targets that the control plane names."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.proxy.running import eventually
from tests.tools.peers import peer
from tests.tools.ports import free_port
from tests.tools.processes import running
from tests.tools.shop import Shop

#: What Grafana makes of `$__rate_interval`, here.
WINDOW = "20s"

Labels = dict[str, str]


@dataclass(frozen=True)
class Prometheus:
    """Its HTTP API."""

    port: int

    def is_ready(self) -> bool:
        """It has read its own data, and answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=20):
                return True
        except urllib.error.HTTPError:
            return False

    def api(self, path: str, **query: str) -> Any:
        """The data of an answer; what Prometheus refuses is an error with its words."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """An instant vector (or scalar), without NaN."""
        data = self.api("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        found = [(dict(one["metric"]), float(one["value"][1])) for one in data["result"]]
        return [(labels, value) for labels, value in found if value == value]

    def names(self) -> set[str]:
        """Every metric."""
        return set(self.api("label/__name__/values"))


@contextmanager
def scraping(shop: Shop, folder: Path, rules: Path) -> Iterator[Prometheus]:
    """Until every proxy and the control plane have been read several times."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {
                "job_name": "pymesh-proxies",
                "http_sd_configs": [{"url": f"http://{shop.admin}/prometheus/targets", "refresh_interval": "1s"}],
            },
            {
                "job_name": "pymesh-control-plane",
                # By these labels Istio's dashboard of the control plane finds it.
                "static_configs": [{"targets": [shop.admin], "labels": {"app": "istiod", "pod": "istiod-0"}}],
            },
        ],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    argv = [
        peer("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with running(argv, ports=[port], timeout=60) as process:
        started = Prometheus(port)
        assert eventually(started.is_ready, 60), process.tail()

        def is_read() -> bool:
            seen = started.query(f'count_over_time(up{{job=~"pymesh-.*"}}[{WINDOW}]) and up == 1')
            return len(seen) == len(shop.proxies) + 1 and all(count >= 6 for _, count in seen)

        assert eventually(is_read, 60), (started.query("up"), process.tail())
        yield started
