"""The shop with two apps more, that speak TCP, and a tracing provider: the real Collector, which is not running yet."""

from __future__ import annotations

import shutil
from pathlib import Path
from string import Template

import yaml

from tests.e2e.test_shop import SHOP
from tests.observability.collector import Collector

_MORE = Path(__file__).parent / "mesh"

#: Whom a dashboard is asked about: a service and a workload that serve and ask others, by what they speak.
CHOSEN = {
    "http": {"service": "reviews.shop.svc.cluster.local", "namespace": "shop", "workload": "web"},
    "tcp": {"service": "ledger.shop.svc.cluster.local", "namespace": "shop", "workload": "ledger"},
}


def mesh(folder: Path, collector: Collector) -> Path:
    """Write the mesh into a folder, for `pymesh up`."""
    made = folder / "mesh"
    shutil.copytree(SHOP, made)
    shutil.copy(_MORE / "books.py", made / "apps")
    file = made / "mesh.yaml"
    document = yaml.safe_load(file.read_text())
    document["spec"]["apps"] += yaml.safe_load((_MORE / "mesh.yaml").read_text())["apps"]
    file.write_text(yaml.safe_dump(document))
    services = Template((_MORE / "services.yaml").read_text())
    (made / "config" / "more.yaml").write_text(services.substitute(COLLECTOR=collector.grpc))
    return made
