"""Random meshes of policies; who may connect by the text of Istio's reference, and by that of NetworkPolicy.

Two readings of two standards that share no code with the export: `mesh_allows` asks whether any request of a client
could be let in, `network_allows` whether its packets are.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

NAMESPACES = ("shop", "bank")
ROOT = "istio-system"
ACCOUNTS = ("web", "cart")
PORTS = (8080, 9090)
#: Of pods, with a sidecar and without; and of two hosts that WorkloadEntries tell of.
PODS = {"shop": "10.1.0.5", "bank": "10.1.0.6", ROOT: "10.1.0.7"}
HOSTS = {"shop": "172.16.0.5", "bank": "172.16.0.6"}
OUTSIDE = "203.0.113.9"


@dataclass(frozen=True)
class Client:
    """Somebody who connects."""

    address: str
    #: "" outside of the cluster.
    pod_namespace: str
    #: "" without an identity of the mesh.
    namespace: str = ""
    account: str = ""

    @property
    def principal(self) -> str:
        return f"cluster.local/ns/{self.namespace}/sa/{self.account}" if self.namespace else ""


def clients() -> list[Client]:
    """Pods of the mesh and outside of it, hosts of the mesh, and a stranger."""
    found = [Client(PODS[n], n, n, account) for n in (*NAMESPACES, ROOT) for account in ACCOUNTS]
    found += [Client(PODS[n], n) for n in NAMESPACES]
    found += [Client(HOSTS[n], "", n, "web") for n in NAMESPACES]
    return [*found, Client(OUTSIDE, "")]


def policy(chance: random.Random, number: int) -> Json:
    """An AuthorizationPolicy."""
    spec: Json = {"action": chance.choices(["ALLOW", "DENY", "AUDIT"], [8, 1, 1])[0]}
    if chance.random() < 0.5:
        spec["selector"] = {"matchLabels": dict(chance.sample(sorted({"app": "web", "tier": "x"}.items()), 1))}
    rules = [_rule(chance) for _ in range(chance.randint(0, 2))]
    spec["rules"] = rules if rules or spec["action"] == "ALLOW" else [{}]
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": f"p{number}", "namespace": chance.choice([*NAMESPACES, ROOT])},
        "spec": spec,
    }


def _rule(chance: random.Random) -> Json:
    rule: Json = {}
    if chance.random() < 0.8:
        rule["from"] = [{"source": _source(chance)} for _ in range(chance.randint(1, 2))]
    if chance.random() < 0.5:
        rule["to"] = [{"operation": _operation(chance)} for _ in range(chance.randint(1, 2))]
    if chance.random() < 0.3:
        rule["when"] = [_condition(chance)]
    return rule


def _source(chance: random.Random) -> Json:
    choices: Json = {
        "namespaces": [chance.choice([*NAMESPACES, "sh*", "*nk", "*"])],
        "notNamespaces": [chance.choice(NAMESPACES)],
        "principals": [
            chance.choice(
                [
                    "cluster.local/ns/shop/sa/web", "cluster.local/ns/bank/*", "*/sa/cart", "*", "cluster.local/*",
                    "other.mesh/ns/shop/sa/web", "cluster.local/ns/sh*",
                ]
            )
        ],
        "serviceAccounts": [chance.choice(["web", "bank/cart"])],
        "ipBlocks": [chance.choice(["10.0.0.0/8", "172.16.0.5", "0.0.0.0/0", "10.1.0.6/32"])],
        "notIpBlocks": [chance.choice(["10.1.0.0/16", "203.0.113.0/24", "0.0.0.0/0"])],
        "requestPrincipals": ["*"],
    }  # fmt: skip
    return {name: choices[name] for name in chance.sample(sorted(choices), chance.randint(1, 2))}


def _operation(chance: random.Random) -> Json:
    choices = {"ports": [str(chance.choice(PORTS))], "methods": ["GET"], "paths": ["/a*"]}
    return {name: choices[name] for name in chance.sample(sorted(choices), chance.randint(1, 2))}


def _condition(chance: random.Random) -> Json:
    return chance.choice(
        [
            {"key": "source.namespace", "values": ["shop"]},
            {"key": "source.principal", "values": ["cluster.local/ns/bank/sa/cart"]},
            {"key": "source.ip", "values": ["10.1.0.0/16"]},
            {"key": "destination.port", "values": ["8080"]},
            {"key": "request.headers[x-a]", "values": ["b"]},
            {"key": "source.namespace", "notValues": ["bank"]},
        ]
    )


def peer_authentication(chance: random.Random, number: int) -> Json:
    """Of a namespace, of the mesh, or of some workloads."""
    namespace = chance.choice([*NAMESPACES, ROOT])
    spec: Json = {"mtls": {"mode": chance.choice(["STRICT", "PERMISSIVE"])}}
    if namespace != ROOT and chance.random() < 0.5:
        spec["selector"] = {"matchLabels": {"app": "web"}}
        if chance.random() < 0.5:
            spec["portLevelMtls"] = {"8080": {"mode": chance.choice(["STRICT", "PERMISSIVE", "DISABLE"])}}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": f"m{number}", "namespace": namespace},
        "spec": spec,
    }


def _matches(pattern: str, text: str) -> bool:
    if pattern == "*":
        return bool(text)
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return text.endswith(pattern[1:]) if pattern.startswith("*") else text == pattern


def _inside(blocks: Sequence[str], address: str) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(one, strict=False) for one in blocks)


def _from(source: Json, client: Client, owner: str) -> bool:
    accounts = [one if "/" in one else f"{owner}/{one}" for one in source.get("serviceAccounts", ())]
    checks = [
        ("namespaces", lambda v: any(_matches(one, client.namespace) for one in v)),
        ("notNamespaces", lambda v: not any(_matches(one, client.namespace) for one in v)),
        ("principals", lambda v: any(_matches(one, client.principal) for one in v)),
        ("serviceAccounts", lambda _: f"{client.namespace}/{client.account}" in accounts),
        ("ipBlocks", lambda v: _inside(v, client.address)),
        ("notIpBlocks", lambda v: not _inside(v, client.address)),
    ]
    return all(check(source[name]) for name, check in checks if name in source)


def _when(condition: Json, client: Client, port: int) -> bool:
    values, unwanted = condition.get("values"), condition.get("notValues")
    facts = {
        "source.namespace": client.namespace,
        "source.principal": client.principal,
        "destination.port": str(port),
    }
    if condition["key"] == "source.ip":
        return _inside(values or ["0.0.0.0/0"], client.address)
    if condition["key"] not in facts:
        return True  # a request may say so
    fact = facts[condition["key"]]
    return (values is None or any(_matches(one, fact) for one in values)) and not any(
        _matches(one, fact) for one in unwanted or ()
    )


def mesh_allows(mesh: Sequence[Json], namespace: str, labels: Json, client: Client, port: int) -> bool:
    """Whether some request of the client could be let in, DENY policies left aside."""
    if not client.namespace and _mode(mesh, namespace, labels, port) == "STRICT":
        return False
    selecting = [
        one
        for one in mesh
        if one["kind"] == "AuthorizationPolicy"
        and one["metadata"]["namespace"] in (namespace, ROOT)
        and one["spec"]["action"] == "ALLOW"
        and one["spec"].get("selector", {}).get("matchLabels", {}).items() <= labels.items()
    ]
    if not selecting:
        return True
    for one in selecting:
        for rule in one["spec"]["rules"]:
            sources = rule.get("from")
            ported = [each["operation"].get("ports") for each in rule.get("to", ())]
            if (
                (
                    sources is None
                    or any(_from(each["source"], client, one["metadata"]["namespace"]) for each in sources)
                )
                and (not ported or any(ports is None or str(port) in ports for ports in ported))
                and all(_when(each, client, port) for each in rule.get("when", ()))
            ):
                return True
    return False


def _mode(mesh: Sequence[Json], namespace: str, labels: Json, port: int) -> str:
    own = [one for one in mesh if one["kind"] == "PeerAuthentication"]
    for one in own:
        wanted = one["spec"].get("selector", {}).get("matchLabels")
        if one["metadata"]["namespace"] == namespace and wanted and wanted.items() <= labels.items():
            ported = one["spec"].get("portLevelMtls", {}).get(str(port))
            return str((ported or one["spec"]["mtls"])["mode"])
    for owner in (namespace, ROOT):
        for one in own:
            if one["metadata"]["namespace"] == owner and "selector" not in one["spec"]:
                return str(one["spec"]["mtls"]["mode"])
    return "STRICT"


def network_allows(
    written: Sequence[Json], namespace: str, labels: Json, client: Client, port: int, protocol: str = "TCP"
) -> bool:
    """By the reference of `networking.k8s.io/v1` NetworkPolicy."""
    selecting = [
        one
        for one in written
        if one["metadata"]["namespace"] == namespace and _selects(one["spec"]["podSelector"], labels)
    ]
    rules = [rule for one in selecting for rule in one["spec"]["ingress"]]
    return not selecting or any(_ingress(rule, client, port, protocol) for rule in rules)


def _ingress(rule: Json, client: Client, port: int, protocol: str) -> bool:
    ports, peers = rule.get("ports"), rule.get("from")
    # Without a port it is all of the protocol's; without a protocol it is TCP.
    fits = any(one.get("protocol", "TCP") == protocol and one.get("port", port) == port for one in ports or ())
    return (not ports or fits) and (not peers or any(_peer(one, client) for one in peers))


def _peer(one: Json, client: Client) -> bool:
    if "ipBlock" in one:
        block = one["ipBlock"]
        return _inside([block["cidr"]], client.address) and not _inside(block.get("except", ()), client.address)
    named = {"kubernetes.io/metadata.name": client.pod_namespace}
    return bool(client.pod_namespace) and _selects(one["namespaceSelector"], named)


def _selects(selector: Json, labels: Json) -> bool:
    for one in selector.get("matchExpressions", ()):
        is_in = labels.get(one["key"]) in one["values"]
        if is_in != (one["operator"] == "In"):
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
