"""HAProxy as a peer, unprivileged and in a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.tools.peers import peer
from tests.tools.processes import Running, running

_FRAME = """
global
    maxconn 1000
defaults
    timeout connect 10s
    timeout client 30s
    timeout server 30s
{sections}
"""


@contextmanager
def haproxy(sections: str, ports: Sequence[int]) -> Iterator[Running]:
    """Run HAProxy with these sections until the block ends."""
    with tempfile.TemporaryDirectory(prefix="haproxy-") as folder:
        config = Path(folder) / "haproxy.cfg"
        config.write_text(_FRAME.format(sections=sections))
        with running([peer("haproxy"), "-db", "-f", str(config)], title="haproxy", ports=ports) as process:
            yield process
