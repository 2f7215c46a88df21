"""The node: runs the pods that are bound to it, and does what the controllers of a cluster do.

One loop looks at everything a few times a second and puts right what is not as it should be. That is slow for a cluster
and simple for a test; an API server that is away for a while is waited for.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.kubernetes.api import ApiRefused, Object
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.kubelet.network import ADDRESS, Network, VirtualPort
from tests.kubernetes.kubelet.pod import Image, Pod

NAME = "node-1"
ZONE = {"topology.kubernetes.io/region": "here", "topology.kubernetes.io/zone": "here-1"}
_TURN_S = 0.25
_HASH = "pod-template-hash"
_API_PORT = 6443


class Node:
    """See the module."""

    def __init__(self, cluster: Cluster, images: Mapping[str, Image]) -> None:
        self.cluster = cluster
        self.network = Network()
        self.pods: dict[str, Pod] = {}
        self._images = images
        #: Why the last turn was not made to its end.
        self.trouble = ""
        self._services: list[Object] = []
        self._written: dict[tuple[str, str, str], Any] = {}
        self._claims = Path(tempfile.mkdtemp(prefix="claims-"))
        self._claims.chmod(0o755)
        self._stop = threading.Event()
        host, port = cluster.url.removeprefix("https://").rsplit(":", 1)
        self.network.to_host(_API_PORT, (host, int(port)))
        cluster.apply([{"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME, "labels": ZONE}}])
        self._thread = threading.Thread(target=self._run, name="node", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all pods, and itself."""
        self._stop.set()
        self._thread.join()
        for one in self.pods.values():
            one.end(grace=1)
        for one in self.pods.values():
            one.join()
        self.network.close()
        shutil.rmtree(self._claims)
        self.cluster.delete("v1", "Node", NAME)

    def pod(self, namespace: str, **labels: str) -> Pod:
        """The one pod with these labels."""
        (found,) = self.all(namespace, **labels)
        return found

    def all(self, namespace: str, **labels: str) -> list[Pod]:
        """Pods with these labels, which are not about to end."""
        return [
            one
            for one in list(self.pods.values())
            if one.namespace == namespace
            and labels.items() <= one.document["metadata"].get("labels", {}).items()
            and not one.document["metadata"].get("deletionTimestamp")
        ]

    def wait(self, what: str, holds: Callable[[], bool], timeout: float = 120) -> None:
        """Until something holds; with everybody's logs if it does not come to that."""
        deadline = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > deadline or any(one.is_broken for one in list(self.pods.values())):
                logs = "\n".join(one.logs() for one in self.pods.values())
                raise AssertionError(f"{what}: not after {timeout} s; {self.trouble}\n{logs}")
            time.sleep(0.05)

    def wait_ready(self, namespace: str, timeout: float = 120) -> None:
        """Until every Deployment of a namespace is as it should be."""

        def holds() -> bool:
            deployments = self.cluster.list("apps/v1", "Deployment", namespace)
            pods = [one for one in self.cluster.list("v1", "Pod", namespace) if _is_live(one)]
            return all(
                sum(is_ready(p) for p in pods if _is_of(p, d)) == d["spec"].get("replicas", 1) for d in deployments
            )

        self.wait(f"pods of {namespace} ready", holds, timeout)

    def _run(self) -> None:
        while not self._stop.wait(_TURN_S):
            try:
                self._turn()
                self.trouble = ""
            except (OSError, ApiRefused) as error:
                self.trouble = str(error)

    def _turn(self) -> None:
        for one in self.cluster.list("v1", "Namespace"):
            self._apply(self._roots(one["metadata"]["name"]))
        self._services = self.cluster.list("v1", "Service")
        pods = self.cluster.list("v1", "Pod")
        deployments = self.cluster.list("apps/v1", "Deployment")
        for deployment in deployments:
            self._replicas(deployment, [one for one in pods if _is_of(one, deployment)])
        self._collect(pods, {one["metadata"]["uid"] for one in deployments})
        for one in pods:
            self._keep(one)
        there = {one["metadata"]["uid"] for one in pods}
        for uid in [uid for uid in self.pods if uid not in there]:
            # Removed without grace.
            self.pods[uid].end(grace=0)
            if self.pods[uid].is_gone:
                del self.pods[uid]
        slices = [self._slice(service, pods) for service in self._services if service["spec"].get("selector")]
        for made in slices:
            self._apply(made)
        self._lead(slices)

    def _keep(self, document: Object) -> None:
        meta, uid = document["metadata"], document["metadata"]["uid"]
        known = self.pods.get(uid)
        if not document["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": NAME}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": meta["name"]}, "target": target}
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/binding"
            self.cluster.request("POST", path, binding)
            return
        if known is None and _is_live(document):
            services = partial(self._of, meta["namespace"])
            self.pods[uid] = Pod(self.cluster, document, self.network, self._images, services, self._claims)
            return
        if known is not None:
            known.document["metadata"] = meta
        if meta.get("deletionTimestamp"):
            if known is not None and not known.is_gone:
                known.end(float(meta.get("deletionGracePeriodSeconds", 30)))
                return
            self.pods.pop(uid, None)
            self.cluster.delete("v1", "Pod", meta["name"], meta["namespace"])

    def _of(self, namespace: str) -> list[Object]:
        return [one for one in self._services if one["metadata"]["namespace"] == namespace]

    def _replicas(self, deployment: Object, pods: list[Object]) -> None:
        """As many pods of the template as wanted; those of an older one go when the new ones are ready."""
        meta, spec = deployment["metadata"], deployment["spec"]
        template = spec["template"]
        hashed = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        live = [one for one in pods if _is_live(one)]
        new = [one for one in live if one["metadata"]["labels"].get(_HASH) == hashed]
        wanted = spec.get("replicas", 1)
        for _ in range(wanted - len(new)):
            labels = {**template["metadata"].get("labels", {}), _HASH: hashed}
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    **template["metadata"],
                    "generateName": f"{meta['name']}-{hashed}-",
                    "namespace": meta["namespace"],
                    "labels": labels,
                    # As of the ReplicaSet that a Deployment has.
                    "ownerReferences": [
                        {
                            "apiVersion": "apps/v1",
                            "kind": "ReplicaSet",
                            "name": f"{meta['name']}-{hashed}",
                            "uid": meta["uid"],
                            "controller": True,
                        }
                    ],
                },
                "spec": template["spec"],
            }
            self.cluster.request("POST", f"/api/v1/namespaces/{meta['namespace']}/pods", pod)
        old = [one for one in live if one not in new]
        if sum(map(is_ready, new)) >= wanted or wanted == 0:
            for one in [*old, *new[wanted:]]:
                path = f"/api/v1/namespaces/{meta['namespace']}/pods/{one['metadata']['name']}"
                self.cluster.request("DELETE", path)

    def _collect(self, pods: list[Object], owners: set[str]) -> None:
        """Pods whose Deployment is gone go, too."""
        for one in pods:
            meta = one["metadata"]
            owned = {each["uid"] for each in meta.get("ownerReferences", ())}
            if owned and not owned & owners and _is_live(one):
                self.cluster.request("DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}")

    def _roots(self, namespace: str) -> Object:
        """What pods trust the API server by."""
        meta = {"name": "kube-root-ca.crt", "namespace": namespace}
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta,
            "data": {"ca.crt": self.cluster.ca.read_text()},
        }

    def _slice(self, service: Object, pods: list[Object]) -> Object:
        meta, spec = service["metadata"], service["spec"]
        selected = [
            one
            for one in pods
            if one["metadata"]["namespace"] == meta["namespace"]
            and spec["selector"].items() <= one["metadata"].get("labels", {}).items()
            and one.get("status", {}).get("podIP")
            and one["status"].get("phase") not in ("Succeeded", "Failed")
        ]
        named = [port for one in selected[:1] for port in _ports(one)]
        ports = [
            {
                "name": port.get("name", ""),
                "port": number,
                "protocol": "TCP",
                **({"appProtocol": port["appProtocol"]} if "appProtocol" in port else {}),
            }
            for port in spec.get("ports", ())
            if (number := _target(port, named)) is not None
        ]
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{meta['name']}-slice",
                "namespace": meta["namespace"],
                "labels": {"kubernetes.io/service-name": meta["name"]},
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [_endpoint(one) for one in selected],
        }

    def _apply(self, wanted: Object) -> None:
        key = wanted["kind"], wanted["metadata"]["namespace"], wanted["metadata"]["name"]
        if self._written.get(key) != wanted:
            self.cluster.apply([wanted])
            self._written[key] = wanted

    def _lead(self, slices: list[Object]) -> None:
        """kube-proxy, and the cluster's DNS."""
        by_service = {
            (one["metadata"]["namespace"], one["metadata"]["labels"]["kubernetes.io/service-name"]): one
            for one in slices
        }
        ports, names = [], {}
        for service in self._services:
            meta, spec = service["metadata"], service["spec"]
            made = by_service.get((meta["namespace"], meta["name"]))
            host = f"{meta['name']}.{meta['namespace']}.svc.cluster.local"
            ready = [e["addresses"][0] for e in made["endpoints"] if e["conditions"]["ready"]] if made else []
            address = spec.get("clusterIP", "None")
            names[host] = ready if address == "None" else [address]
            for port in spec.get("ports", ()) if address != "None" else ():
                numbers = {p["name"]: p["port"] for p in made["ports"]} if made else {}
                ends = [(one, numbers[port.get("name", "")]) for one in ready if port.get("name", "") in numbers]
                if (meta["namespace"], meta["name"]) == ("default", "kubernetes"):
                    ends = [(ADDRESS, _API_PORT)]
                ports.append(VirtualPort(address, port["port"], tuple(sorted(ends))))
        self.network.names = names
        self.network.route(ports)


def is_ready(pod: Object) -> bool:
    """By its condition."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _is_live(pod: Object) -> bool:
    return not pod["metadata"].get("deletionTimestamp")


def _is_of(pod: Object, deployment: Object) -> bool:
    selector = deployment["spec"]["selector"]["matchLabels"]
    return bool(
        pod["metadata"]["namespace"] == deployment["metadata"]["namespace"]
        and selector.items() <= pod["metadata"].get("labels", {}).items()
    )


def _ports(pod: Object) -> Iterator[Object]:
    for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())):
        yield from container.get("ports", ())


def _target(port: Object, named: list[Object]) -> int | None:
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    return next((one["containerPort"] for one in named if one.get("name") == target), None)


def _endpoint(pod: Object) -> Object:
    ready, live = is_ready(pod), _is_live(pod)
    meta = pod["metadata"]
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready and live, "serving": ready, "terminating": not live},
        "nodeName": NAME,
        "zone": ZONE["topology.kubernetes.io/zone"],
        "targetRef": {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
    }


@contextmanager
def node(cluster: Cluster, images: Mapping[str, Image]) -> Iterator[Node]:
    """A node for as long as a block lasts."""
    made = Node(cluster, images)
    try:
        yield made
    finally:
        made.close()
