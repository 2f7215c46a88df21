"""A pod with an application, a proxy and capture, and the servers around it."""

from __future__ import annotations

import itertools
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.capture.bootstrap import ADMIN, INBOUND, OUTBOUND, Json
from tests.capture.world import ELSEWHERE, PROXY, Namespace, World, namespaces, url
from tests.proxy.running import command, eventually, pymesh
from tests.tools.nginx import nginx
from tests.tools.processes import Running, running

#: HTTP servers say by which address they were called, by whom, and for which host.
_HTTP = """
    server {{ {listens} location / {{ return 200 "$server_addr $server_port $remote_addr $host\\n"; }} }}
"""
EXCLUDED_PORT, EXCLUDED_INBOUND = 8443, 9100
_NUMBERS = itertools.count()
RULES = [
    "--exclude-outbound-ports",
    str(EXCLUDED_PORT),
    "--exclude-outbound-cidrs",
    f"{ELSEWHERE[4]}/32,{ELSEWHERE[6]}/128",
    "--exclude-inbound-ports",
    str(EXCLUDED_INBOUND),
]


@dataclass(frozen=True)
class Sidecar:
    """The pod with everything in it, and the world around it."""

    kind: str
    pod: Namespace
    world: Namespace
    proxy: Running

    def stats(self) -> dict[str, int]:
        """The proxy's numbers."""
        text = self.pod.curl(url("127.0.0.1", ADMIN, "/stats")).stdout
        return {name: int(value) for name, value in re.findall(r"^([^\s:]+): (\d+)\r?$", text, re.MULTILINE)}

    def count(self, name: str) -> int:
        """One of them."""
        return self.stats().get(name, 0)


@contextmanager
def servers(where: Namespace, http: list[int], tcp: list[int]) -> Iterator[None]:
    listens = " ".join(f"listen {port}; listen [::]:{port};" for port in http)
    speaker = [sys.executable, str(Path(__file__).with_name("speaker.py")), *map(str, tcp)]
    with nginx(_HTTP.format(listens=listens), [], prefix=where.argv([])), running(where.argv(speaker)):
        assert eventually(lambda: all(where.listens(port) for port in [*http, *tcp]), 60)
        yield


@contextmanager
def start(
    kind: str, config: Json, mode: str, rules: Sequence[str] = (), *, beside: Sequence[str] = ()
) -> Iterator[Sidecar]:
    """Both namespaces with servers in them, and a proxy of that kind on the bootstrap; capture is on.

    `beside` is another program in the pod, which the proxy depends on."""
    with ExitStack() as stack:
        made: World = stack.enter_context(namespaces(f"{kind[0]}{mode[0]}{next(_NUMBERS)}"))
        stack.enter_context(servers(made.world, [80, 8081, 8888, EXCLUDED_PORT], [3307, 9999]))
        stack.enter_context(servers(made.pod, [8080], [9000, EXCLUDED_INBOUND]))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capture-")))
        folder.chmod(0o755)
        file = folder / "bootstrap.json"
        file.write_text(json.dumps(config))
        if beside:
            stack.enter_context(running(made.pod.argv(beside), title="beside"))
        caps = ["net_admin"] if mode == "TPROXY" else []
        argv = made.pod.argv(command(kind, file, 2), PROXY, caps)
        proxy = stack.enter_context(running(argv, title=kind))
        if not eventually(lambda: made.pod.listens(INBOUND) and made.pod.listens(OUTBOUND), 90):
            raise RuntimeError(f"{kind} does not listen:\n{proxy.tail()}")
        made.pod.run(*pymesh(), "capture", "on", "--mode", mode, *rules)
        yield Sidecar(kind, made.pod, made.world, proxy)


def http(answer: str) -> tuple[int, dict[str, str], list[str]]:
    """Status, headers, and the words of the body."""
    head, _, body = answer.partition("\n\n")  # what was read as text has no CR any more
    first, *lines = head.split("\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, body.split()


def get(where: Namespace, target: str, *arguments: str) -> tuple[int, dict[str, str], list[str]]:
    """An answer in those parts."""
    done = where.curl(target, *arguments)
    assert done.returncode == 0, done.stderr
    return http(done.stdout)
