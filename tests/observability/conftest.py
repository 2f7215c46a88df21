"""One shop, one Prometheus and the ports of one Collector for all of these tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymesh import dashboards
from tests.observability.collector import Collector, not_started
from tests.observability.prometheus import Prometheus, scraping
from tests.observability.shop import mesh
from tests.tools.shop import Shop, running_shop

#: Building istioctl takes as long as everything else together: `make observability` does, and runs what needs it.
collect_ignore = [] if "PYMESH_OBSERVABILITY_WHOLE" in os.environ else ["test_istioctl.py"]


@pytest.fixture(scope="session")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Collector:
    """The shop's tracing provider; who wants traces runs it."""
    return not_started(tmp_path_factory.mktemp("collector"))


@pytest.fixture(scope="session")
def shop(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop, with traffic."""
    folder = tmp_path_factory.mktemp("shop")
    with running_shop(folder, mesh(folder, collector)) as running:
        yield running


@pytest.fixture(scope="session")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The alert rules of the package, as a file."""
    file = tmp_path_factory.mktemp("rules") / dashboards.ALERTS
    file.write_text(dashboards.text(dashboards.ALERTS))
    return file


@pytest.fixture(scope="session")
def prometheus(shop: Shop, rules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, which has read the shop for some seconds."""
    with scraping(shop, tmp_path_factory.mktemp("prometheus"), rules) as started:
        yield started
