"""nginx as an origin or as a peer proxy, unprivileged and in a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.tools.peers import peer
from tests.tools.processes import Running, running

_FRAME = """
daemon off;
{user}
worker_processes {workers};
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 32768; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
{http}
}}
"""


@contextmanager
def nginx(http: str, ports: Sequence[int], *, workers: int = 1, prefix: Sequence[str] = ()) -> Iterator[Running]:
    """Run nginx with `http` inside its http block, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="nginx-") as folder:
        # A master that is root would drop its workers to a user who may not write into the folder.
        user = "user root;" if _is_root() else ""
        config = Path(folder) / "nginx.conf"
        config.write_text(_FRAME.format(user=user, workers=workers, folder=folder, http=http))
        argv = [*prefix, peer("nginx"), "-c", str(config), "-p", folder, "-e", "stderr"]
        with running(argv, title="nginx", ports=ports) as process:
            yield process


def _is_root() -> bool:
    return Path("/proc/self").stat().st_uid == 0
