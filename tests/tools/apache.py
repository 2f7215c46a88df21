"""Apache httpd as an origin, in a folder of its own: never the system's service or configuration."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.tools.peers import peer
from tests.tools.processes import Running, running

_MODULES = "/usr/lib/apache2/modules"

_FRAME = """
ServerRoot {folder}
ServerName localhost
PidFile {folder}/pid
Mutex file:{folder} default
DefaultRuntimeDir {folder}
ErrorLog /dev/stderr
LogLevel error
{modules}
{user}
StartServers 1
ServerLimit 1
ThreadsPerChild 128
MaxRequestWorkers 128
MinSpareThreads 1
MaxSpareThreads 128
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 600
TraceEnable extended
{config}
"""


@contextmanager
def apache(config: str, modules: Sequence[str], ports: Sequence[int]) -> Iterator[Running]:
    """Run Apache with `config` at its top level and `modules` loaded, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="apache-") as folder:
        loads = [f"LoadModule {name}_module {_MODULES}/mod_{name}.so" for name in ("mpm_event", *modules)]
        # Started by root it gives its workers to somebody else, and refuses to run if that is root again.
        user = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
        Path(folder).chmod(0o755)
        file = Path(folder) / "apache.conf"
        file.write_text(_FRAME.format(folder=folder, modules="\n".join(loads), user=user, config=config))
        argv = [peer("apache2"), "-f", str(file), "-D", "FOREGROUND"]
        with running(argv, title="apache2", ports=ports) as process:
            yield process
