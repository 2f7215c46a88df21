"""h2specd against our client side: the proxy's upstream connections pass every case.

h2specd listens on one port per case and runs a command for each, with the case's address as its last argument. The
command is curl, which connects to the proxy instead and leaves the address in `Host`; the proxy has one virtual host
and one HTTP/2 cluster per case.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy
from tests.tools.peers import peer
from tests.tools.ports import free_ports, free_range

_CASES = 57


def test_every_case_passes(run_proxy: Callable[[Json], AbstractContextManager[Proxy]]) -> None:
    port, admin_port = free_ports(2)
    first = free_range(_CASES)
    cases = range(first, first + _CASES)
    config = bootstrap(
        [
            http_listener(
                port,
                [virtual_host(f"case-{case}", [to_cluster(f"case-{case}")], [f"127.0.0.1:{case}"]) for case in cases],
            )
        ],
        [cluster(f"case-{case}", [case], http2=True) for case in cases],
        admin_port,
    )
    command = f"{peer('curl')} --silent --max-time 2.5 --connect-to ::127.0.0.1:{port}"
    with run_proxy(config) as proxy:
        suite = subprocess.run(
            [peer("h2specd"), "-S", "-f", str(first), "-e", command], capture_output=True, text=True, timeout=300
        )
        assert proxy.process.alive(), proxy.process.tail()
    # When it is done it closes its listeners and goes on to complain about each of them, endlessly.
    lines = [line for line in suite.stdout.splitlines() if "use of closed network connection" not in line]
    report = "\n".join(lines) + suite.stderr
    summary = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", report)
    assert summary, report
    assert summary.groups() == (str(_CASES), str(_CASES), "0", "0"), report
