"""What every test that runs a proxy shares.

`PYMESH_TEST_PROXY=envoy` runs the suites that take `run_proxy` on Envoy instead of ours, to tell a fault of a test
from a fault of the proxy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

# Read when grpc is imported. Children of the tests do nothing but exec, and grpc's handlers for forks have crashed some
# of them while its threads were busy.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# At the end of the path: the installed pymesh must win over the source tree of the same name.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from tests.proxy.bootstrap import Json
from tests.proxy.running import Proxy, proxy
from tests.tools.certificates import Authority


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of the random tests is run."""
    parser.addoption("--seed", type=int, default=1, help="first seed of tests/differential, seed of tests/routing")
    parser.addoption("--requests", type=int, default=20_000, help="requests of tests/differential")


@pytest.fixture(scope="session")
def run_proxy() -> Callable[[Json], AbstractContextManager[Proxy]]:
    """Start the proxy under test on a bootstrap."""
    kind = os.environ.get("PYMESH_TEST_PROXY", "pymesh")

    @contextmanager
    def start(config: Json) -> Iterator[Proxy]:
        with proxy(kind, config) as started:
            yield started

    return start


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority for this run."""
    return Authority(tmp_path_factory.mktemp("certificates"))
