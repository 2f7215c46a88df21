"""Foreign conformance suites against our proxy.

`PYMESH_TEST_PROXY=envoy` runs the same tests on Envoy, to tell a fault of the harness from one of the proxy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

# At the end: the installed pymesh must win over the source tree of the same name.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.proxy.bootstrap import Json
from tests.proxy.running import Proxy, proxy
from tests.tools.certificates import Authority


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
