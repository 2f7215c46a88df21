"""The ruleset for a plain host, in a kernel: three clients, two ports, by capture's redirection and without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from click.testing import CliRunner

from pymesh.cli.main import main
from tests.capture.world import ANYWHERE, ELSEWHERE, POD, WORLD, Namespace, namespaces
from tests.network.meshes import Json
from tests.tools.peers import peer

OPEN, GOVERNED = 7000, 8080
#: Says nothing to nobody, on two ports and in both versions.
_LISTEN = """
import socket, sys
both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
servers = [socket.create_server(("::", int(port)), **both) for port in sys.argv[1:]]
print("ready", flush=True)
sys.stdin.read()
"""
_CONNECT = """
import socket, sys
source, address, port = sys.argv[1:]
try:
    socket.create_connection((address, int(port)), 60, source_address=(source, 0)).close()
except ConnectionRefusedError:
    sys.exit(9)
"""


def entry(name: str, address: str, namespace: str) -> Json:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"address": address, "serviceAccount": name, "ports": {"http": GOVERNED}},
    }


def policy(**source: list[str]) -> Json:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"rules": [{"from": [{"source": source}]}]},
    }


@contextmanager
def listening(where: Namespace) -> Iterator[None]:
    argv = where.argv([sys.executable, "-c", _LISTEN, str(OPEN), str(GOVERNED)])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.communicate(timeout=20)


def reaches(world: Namespace, source: str, port: int) -> bool:
    target = POD[6 if ":" in source else 4]
    done = world.run(sys.executable, "-c", _CONNECT, source, target, str(port), check=False)
    assert done.returncode in (0, 9), done.stderr
    return done.returncode == 0


def ruleset(folder: Path, resources: list[Json], *options: str) -> str:
    (folder / "resources.yaml").write_text(yaml.safe_dump_all(resources))
    words = ["policy", "export", str(folder), "-o", "nftables", "--workload", "db.shop", *options]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_in_a_kernel(tmp_path: Path) -> None:
    entries = [
        entry("db", POD[4], "shop"), entry("web", WORLD[4], "shop"), entry("six", ANYWHERE[6], "shop"),
        entry("other", ANYWHERE[4], "bank"),
    ]  # fmt: skip
    clients = [WORLD[4], ANYWHERE[4], ELSEWHERE[4], WORLD[6], ANYWHERE[6]]
    in_shop = {WORLD[4], ANYWHERE[6]}
    # Options, policy -> who gets to the port.
    cases: list[tuple[list[str], list[Json], set[str]]] = [
        (["--known-only"], [policy(namespaces=["shop"])], in_shop),
        (["--known-only"], [policy(principals=["cluster.local/ns/bank/sa/other"])], {ANYWHERE[4]}),
        (["--known-only"], [], in_shop | {ANYWHERE[4]}),
        ([], [policy(namespaces=["shop"])], set(clients)),
        (["--mesh-network", "10.66.7.0/24"], [policy(namespaces=["shop"])], {ANYWHERE[4]}),
        ([], [policy(ipBlocks=["10.66.8.0/24"])], {ELSEWHERE[4]}),
        ([], [policy(notIpBlocks=["10.66.8.0/24"])], set(clients) - {ELSEWHERE[4]}),
        ([], [policy(notIpBlocks=["10.66.8.0/24", "fd66::/64"])], {WORLD[4], ANYWHERE[4], ANYWHERE[6]}),
        ([], [{**policy(), "spec": {}}], set()),
    ]
    with namespaces("policy") as made, listening(made.pod):
        for options, policies, admitted in cases:
            file = tmp_path / "rules.nft"
            file.write_text(ruleset(tmp_path, [*entries, *policies], *options))
            made.pod.run(peer("nft"), "-f", str(file))
            found = {one for one in clients if reaches(made.world, one, GOVERNED)}
            assert found == admitted, (options, policies, file.read_text())
        assert reaches(made.world, ELSEWHERE[4], OPEN)


def test_a_port_that_was_redirected_is_judged_by_what_the_client_asked_for(tmp_path: Path) -> None:
    entries = [entry("db", POD[4], "shop"), entry("web", WORLD[4], "shop")]
    with namespaces("policyr") as made, listening(made.pod):
        file = tmp_path / "rules.nft"
        hook = "type nat hook prerouting priority -100"
        redirect = f"table ip capture {{ chain pre {{ {hook}; tcp dport {GOVERNED} redirect to :{OPEN}\n}}\n}}\n"
        file.write_text(redirect + ruleset(tmp_path, [*entries, policy(namespaces=["shop"])], "--known-only"))
        made.pod.run(peer("nft"), "-f", str(file))
        assert reaches(made.world, WORLD[4], GOVERNED)
        assert not reaches(made.world, ELSEWHERE[4], GOVERNED)


def test_a_host_without_ports_is_an_error(tmp_path: Path) -> None:
    one = entry("db", POD[4], "shop")
    del one["spec"]["ports"]
    (tmp_path / "resources.yaml").write_text(yaml.safe_dump(one))
    done = CliRunner().invoke(main, ["policy", "export", str(tmp_path), "-o", "nftables", "--workload", "db.shop"])
    assert (done.exit_code, done.stderr) == (
        1,
        "error: WorkloadEntry shop/db has no ports; hint: name them in spec.ports\n",
    )
