"""One real cluster for each process of tests, started when it is first asked for. README.md tells how it is used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes import crds
from tests.kubernetes.cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Kubernetes API server."""
    with Cluster.running(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="session")
def mesh_apis(cluster: Cluster) -> Cluster:
    """The cluster with the kinds of Istio, of the Gateway API and of pymesh."""
    crds.install(cluster)
    return cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace, empty again afterwards."""
    with cluster.namespace() as name:
        yield name
