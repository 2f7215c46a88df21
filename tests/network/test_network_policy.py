"""`pymesh policy export`: never less than the mesh lets in, and no more where a network can say it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pymesh.cli.main import main
from tests.network import meshes
from tests.network.meshes import Client, Json, clients, mesh_allows, network_allows

#: Of pods with a sidecar.
LABELS = [{"security.istio.io/tlsMode": "istio", **more} for more in ({}, {"app": "web"}, {"app": "web", "tier": "x"})]


def entry(namespace: str) -> Json:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": "host", "namespace": namespace},
        "spec": {"address": meshes.HOSTS[namespace], "serviceAccount": "web", "ports": {"http": 8080}},
    }


def exported(folder: Path, resources: list[Json], *options: str) -> list[Json]:
    (folder / "resources.yaml").write_text(yaml.safe_dump_all(resources))
    done = CliRunner().invoke(main, ["policy", "export", str(folder), *options])
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all(done.stdout))


def test_whoever_the_mesh_could_let_in_is_let_in(tmp_path: Path) -> None:
    let_in = kept_out = 0
    for seed in range(120):
        chance = random.Random(seed)
        mesh = [meshes.policy(chance, number) for number in range(chance.randint(0, 3))]
        mesh += [meshes.peer_authentication(chance, number) for number in range(chance.randint(0, 2))]
        written = exported(tmp_path, [*mesh, *map(entry, meshes.NAMESPACES)])
        for namespace in meshes.NAMESPACES:
            for labels in LABELS:
                for client in clients():
                    for port in meshes.PORTS:
                        if network_allows(written, namespace, labels, client, port):
                            let_in += 1
                            continue
                        kept_out += 1
                        why = f"seed {seed}: {client} to {namespace} {labels} port {port}"
                        assert not mesh_allows(mesh, namespace, labels, client, port), why
    # It is a wall: of so many random policies it keeps out a good part.
    assert kept_out > let_in / 10, (kept_out, let_in)


@pytest.mark.parametrize(
    ("rules", "admitted"),
    [
        ([], set()),
        ([{"from": [{"source": {"namespaces": ["shop"]}}]}], {"shop"}),
        ([{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}]}], {"shop"}),
        ([{"from": [{"source": {"principals": ["other.mesh/ns/shop/sa/web"]}}]}], {"shop", "bank", "outside"}),
        ([{"from": [{"source": {"namespaces": ["sho*"]}}]}], {"shop", "bank"}),
        ([{"from": [{"source": {"serviceAccounts": ["web"]}}]}], {"bank"}),
        ([{"from": [{"source": {"ipBlocks": ["203.0.113.0/24"]}}]}], {"outside"}),
        ([{"to": [{"operation": {"paths": ["/a"]}}]}], {"shop", "bank"}),
    ],
)
def test_no_more_than_the_mesh_where_a_network_can_say_it(tmp_path: Path, rules: list[Any], admitted: set[str]) -> None:
    head = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}
    one = {**head, "metadata": {"name": "p", "namespace": "bank"}, "spec": {"rules": rules}}
    written = exported(tmp_path, [one])
    who = {
        "shop": Client(meshes.PODS["shop"], "shop", "shop", "web"),
        "bank": Client(meshes.PODS["bank"], "bank", "bank", "web"),
        "outside": Client(meshes.OUTSIDE, ""),
    }
    found = {name for name, client in who.items() if network_allows(written, "bank", LABELS[0], client, 8080)}
    assert found == admitted
    # Metrics and readiness are the sidecar's own, SSH and HBONE are never captured: no policy is about them.
    for port in (15020, 15021, 15090, 22, 15008):
        assert all(network_allows(written, "bank", LABELS[0], client, port) for client in who.values())
    assert all(network_allows(written, "bank", {}, client, 8080) for client in who.values())
    # Nothing but TCP is captured: a name server or a call's voice is asked as before.
    for protocol in ("UDP", "SCTP"):
        assert all(network_allows(written, "bank", LABELS[0], client, 53, protocol) for client in who.values())


def test_gateways_let_in_whoever_comes_unless_a_policy_says_otherwise(tmp_path: Path) -> None:
    selector = {"istio": "ingressgateway"}
    gateway = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "shop"},
        "spec": {
            "selector": selector,
            "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}],
        },
    }
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "office", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": selector},
            "rules": [{"from": [{"source": {"ipBlocks": ["203.0.113.0/24"]}}]}],
        },
    }
    stranger, other = Client(meshes.OUTSIDE, ""), Client("198.51.100.1", "")
    assert network_allows(exported(tmp_path, [gateway]), "shop", selector, other, 80)
    written = exported(tmp_path, [gateway, policy])
    assert network_allows(written, "shop", selector, stranger, 80)
    assert not network_allows(written, "shop", selector, other, 80)


def istio_gateway(name: str, port: int, selector: Json | None) -> Json:
    servers = [{"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]
    head = {"apiVersion": "networking.istio.io/v1", "kind": "Gateway"}
    spec = {"servers": servers, **({} if selector is None else {"selector": selector})}
    return {**head, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def from_shop(name: str, **more: Any) -> Json:
    spec = {"rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}], **more}
    head = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}
    return {**head, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def test_a_gateway_without_a_selector_closes_no_pod_without_a_proxy(tmp_path: Path) -> None:
    written = exported(tmp_path, [istio_gateway("edge", 80, None), from_shop("p")])
    stranger = Client(meshes.OUTSIDE, "")
    assert network_allows(written, "shop", {"app": "plain"}, stranger, 80)
    assert not network_allows(written, "shop", LABELS[0], stranger, 80)


def test_a_policy_for_a_gateway_leaves_others_of_the_same_proxies_open(tmp_path: Path) -> None:
    """Those of `pymesh install` serve Istio's Gateways and one of the Gateway API."""
    label, stranger = "gateway.networking.k8s.io/gateway-name", Client(meshes.OUTSIDE, "")
    both, alone = {"istio": "ingressgateway", label: "edge"}, {label: "edge"}
    kube = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "shop"},
        "spec": {"gatewayClassName": "pymesh", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
    }
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}
    closing = from_shop("p", targetRefs=[target])
    mesh = [kube, istio_gateway("other", 8080, {"istio": "ingressgateway"}), closing]
    written = exported(tmp_path, mesh)
    assert network_allows(written, "shop", both, stranger, 8080)
    for labels, port in ((both, 80), (alone, 80), (alone, 8080)):
        assert not network_allows(written, "shop", labels, stranger, port), (labels, port)
    # Where another policy is about them, that one decides.
    written = exported(tmp_path, [*mesh, from_shop("q")])
    assert not network_allows(written, "shop", both, stranger, 8080)
    # A Gateway that selects by no label may be served by any of them.
    written = exported(tmp_path, [kube, istio_gateway("other", 8080, None), closing])
    assert network_allows(written, "shop", alone, stranger, 8080)
    assert not network_allows(written, "shop", alone, stranger, 80)


def test_labels_stay_texts_for_kubectl(tmp_path: Path) -> None:
    """What PyYAML leaves without quotes is a number and a bool there."""
    labels = {"version": "12e3", "canary": "y"}
    (written, *_) = exported(tmp_path, [from_shop("p", selector={"matchLabels": labels})])
    text = CliRunner().invoke(main, ["policy", "export", str(tmp_path)]).stdout
    assert labels.items() <= written["spec"]["podSelector"]["matchLabels"].items()
    assert "version: '12e3'" in text
    assert "canary: 'y'" in text


def test_no_policy_takes_the_place_of_another(tmp_path: Path) -> None:
    """`kubectl apply` keeps one of a name: one for each target, and for policies whose names read alike."""
    head = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}
    resources: list[Json] = []
    for name in ("a", "b"):
        ports = [{"name": "http", "port": 8080}]
        service = {"metadata": {"name": name, "namespace": "shop"}, "spec": {"selector": {"app": name}, "ports": ports}}
        resources.append({"apiVersion": "v1", "kind": "Service", **service})
    both = [{"group": "", "kind": "Service", "name": name} for name in ("a", "b")]
    resources.append({**head, "metadata": {"name": "p", "namespace": "shop"}, "spec": {"targetRefs": both}})
    # Of the root namespace and of its own; joined by a hyphen the two read the same.
    for namespace, name in (("istio-system", "x"), ("shop", "system-x"), ("shop", "system.x")):
        resources.append({**head, "metadata": {"name": name, "namespace": namespace}, "spec": {}})
    written = exported(tmp_path, resources)
    names = [(one["metadata"]["namespace"], one["metadata"]["name"]) for one in written]
    assert len(set(names)) == len(names), names
    selected = [one["spec"]["podSelector"]["matchLabels"].get("app") for one in written]
    assert {"a", "b"} <= set(selected)


def test_a_host_that_is_a_name_may_be_anywhere(tmp_path: Path) -> None:
    named = entry("shop")
    named["spec"]["address"] = "db.example.com"
    head = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}
    rules = [{"from": [{"source": {"namespaces": ["shop"]}}]}]
    one = {**head, "metadata": {"name": "p", "namespace": "bank"}, "spec": {"rules": rules}}
    written = exported(tmp_path, [named, one])
    assert network_allows(written, "bank", LABELS[0], Client(meshes.OUTSIDE, ""), 8080)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "nftables"], "which host? hint: --workload NAME.NAMESPACE"),
        (
            ["-o", "nftables", "--workload", "hst.shop"],
            "there is no WorkloadEntry 'hst.shop'; hint: did you mean 'host.shop'?",
        ),
        (["--mesh-network", "10.0.0.0/40"], "Invalid value for '--mesh-network'"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path: Path, options: list[str], said: str) -> None:
    (tmp_path / "resources.yaml").write_text(yaml.safe_dump(entry("shop")))
    done = CliRunner().invoke(main, ["policy", "export", str(tmp_path), *options])
    assert done.exit_code in (1, 2)
    assert said in done.stderr, done.stderr


def test_an_error_in_the_mesh_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "resources.yaml").write_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {x: 1}\n"
    )
    done = CliRunner().invoke(main, ["policy", "export", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "resources.yaml:4:8: error: spec: unknown field 'x'" in done.stderr
