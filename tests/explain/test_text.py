"""What `pymesh explain` says, word by word: `expected/NAME.txt` begins with the command, and its output follows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from pymesh.cli.main import main
from tests.tools.certificates import Authority

HERE = Path(__file__).parent
EXPECTED = sorted((HERE / "expected").glob("*.txt"))
_PROMPT = "$ pymesh "


def explain(*words: str) -> Result:
    return CliRunner().invoke(main, ["explain", *words])


@pytest.mark.parametrize("file", EXPECTED, ids=lambda file: file.stem)
def test_it_says(file: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    command, _, expected = file.read_text().partition("\n")
    done = CliRunner().invoke(main, shlex.split(command.removeprefix(_PROMPT)))
    assert done.exit_code == 0, done.output
    if request.config.getoption("--regen-explained"):
        file.write_text(f"{command}\n{done.output}")
        return
    assert done.output == expected


def test_for_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    words = ["--config", "mesh", "--from", "front-1", "--to", "orders.back", "--json"]
    story = json.loads(explain(*words, "GET /internal/x").output)
    assert (story["status"], story["answered_by"]) == (403, "orders-v1.back")
    assert story["details"].endswith("{ns[back]-policy[readers]-rule[0]:not_path}")
    assert [(hop["proxy"], hop["is_on_the_way"]) for hop in story["hops"]] == [
        ("front-1.shop", True),
        ("orders-v1.back", True),
    ]
    refused = [step for step in story["hops"][1]["steps"] if step["what"] == "REFUSES"]
    assert [step["at"] for step in refused] == ["mesh/policies.yaml:7:7"]


MESH = "--config", "mesh"
ASKED = *MESH, "--from", "front-1", "--to", "orders"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--from", "front-1", "--to", "orders"],
            "say where the mesh is described\nhint: --config DIR, or --admin HOST:PORT of a running control plane",
        ),
        (
            [*MESH, "--from", "fronf-1", "--to", "orders"],
            "no workload of the mesh is called 'fronf-1'\nhint: did you mean 'front-1'?",
        ),
        (
            [*MESH, "--from", "front-1", "--to", "ordesr"],
            "there is no service 'ordesr'\nhint: did you mean 'orders'?",
        ),
        (
            [*ASKED, "--port", "81"],
            "orders.back.svc.cluster.local has no port 81\nhint: known: 80, 9000",
        ),
        (
            [*MESH, "--from", "spiffe://cluster.local/sa/x", "--to", "orders"],
            "--from 'spiffe://cluster.local/sa/x' is no identity\n"
            "hint: spiffe://cluster.local/ns/NAMESPACE/sa/SERVICEACCOUNT",
        ),
        (
            [*MESH, "--from", "shop/Front", "--to", "orders"],
            "--from 'shop/Front': service account 'Front' is not a DNS name in lower case",
        ),
        (
            [*MESH, "--from", "legacy-1", "--to", "orders"],
            "'legacy-1' has no proxy: its WorkloadEntry has neither a serviceAccount nor the label "
            "security.istio.io/tlsMode: istio\n"
            "hint: --from none is somebody without one",
        ),
        (
            [*MESH, "--from", "none", "--to", "empty"],
            "empty.back.svc.cluster.local port 80 has no endpoints\nhint: no workload has the labels of its selector",
        ),
        (
            [*MESH, "--from", "door", "--to", "orders", "--port", "81"],
            "gateway door.shop has no port 81\nhint: --port; known: 8080",
        ),
        (
            [*ASKED, "GET"],
            "'GET' is no request\nhint: write it as in \"GET /path\"",
        ),
        (
            [*ASKED, "GET /ä"],
            "'/ä' has characters that no request has\nhint: write them as %XX",
        ),
        (
            [*ASKED, "--header", "x-next"],
            "'x-next' is no header\nhint: write it as in \"x-user: ann\"",
        ),
        (
            [*ASKED, "--header", "Host: x"],
            "header 'Host' cannot be set\nhint: use --host",
        ),
        (
            [*ASKED, "--header", "content-length: 3"],
            "header 'content-length' cannot be set\nhint: a request is explained without its body",
        ),
        (
            [*ASKED, "--host", "a b"],
            "--host 'a b' is no host\nhint: as in shop.example or shop.example:8080",
        ),
        (
            [*MESH, "--from", "none", "--to", "orders", "--source-ip", "10.0.0"],
            "--source-ip '10.0.0' is no IP address\nhint: as in 203.0.113.7",
        ),
        (
            [*ASKED, "--sni", "a b"],
            "--sni 'a b' is no host name\nhint: as in shop.example",
        ),
        (
            [*ASKED, "--claims", "ann"],
            '--claims is not JSON: Expecting value: line 1 column 1 (char 0)\nhint: as in \'{"sub": "ann"}\'',
        ),
        (
            [*ASKED, "--claims", "[]"],
            '--claims is no JSON object\nhint: as in \'{"sub": "ann"}\'',
        ),
        (
            ["--config", "nowhere", "--from", "none", "--to", "orders"],
            "nowhere: error: there is no such folder\n  hint: --config names a folder of YAML files",
        ),
        (
            ["--admin", "127.0.0.1:1", "--from", "none", "--to", "orders"],
            "http://127.0.0.1:1/debug/syncz: [Errno 111] Connection refused\n"
            "hint: --admin is the control plane's admin address, as in 127.0.0.1:15014",
        ),
    ],
)
def test_what_cannot_be_asked(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    done = explain(*words)
    assert (done.exit_code, done.stderr) == (1, f"error: {said}\n")


def test_a_gateway_that_terminates_tls(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("shop.example", dns=["shop.example"])
    secret = {name: Path(file).read_text() for name, file in (("tls.crt", pair.chain), ("tls.key", pair.key))}
    documents = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": "shop", "namespace": "shop"},
            "stringData": secret,
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "secure", "namespace": "shop"},
            "spec": {
                "selector": {"istio": "secure"},
                "servers": [
                    {
                        "port": {"number": 443, "name": "https", "protocol": "HTTPS"},
                        "hosts": ["shop.example"],
                        "tls": {"mode": "SIMPLE", "credentialName": "shop"},
                    }
                ],
            },
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "secure", "namespace": "shop"},
            "spec": {
                "hosts": ["shop.example"],
                "gateways": ["secure"],
                "http": [{"directResponse": {"status": 204}}],
            },
        },
    ]
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump_all(documents))
    words = ["--config", str(HERE / "mesh"), "--config", str(tmp_path), "--from", "secure", "--to", "orders", "--json"]
    with_tls = json.loads(explain(*words, "--sni", "shop.example").output)
    assert (with_tls["status"], with_tls["details"]) == (204, "direct_response")
    in_plain_text = json.loads(explain(*words, "--host", "shop.example").output)
    assert in_plain_text["status"] is None
    for text in (json.dumps(with_tls), json.dumps(in_plain_text)):
        assert "PRIVATE KEY" not in text
        assert secret["tls.key"].splitlines()[1] not in text
