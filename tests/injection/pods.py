"""Pods to inject, and the reading of a JSON patch by its standard alone."""

from __future__ import annotations

import copy
from typing import Any

from pymesh.control.injection.settings import InjectionSettings

Json = dict[str, Any]
SETTINGS = InjectionSettings(image="registry.example/pymesh:1.0")


def pod(metadata: Json | None = None, container: Json | None = None, **spec: Any) -> Json:
    """One container with a port, and whatever else is wanted of the pod."""
    named = {"name": "web-0", "namespace": "shop", "labels": {"app": "web", "version": "v1"}}
    web = {"name": "web", "image": "web:1", "ports": [{"containerPort": 8080, "name": "http"}], **(container or {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**named, **(metadata or {})},
        "spec": {"containers": [web], **spec},
    }


def annotated(**annotations: str) -> Json:
    """A pod with wishes; `__` stands for what a name of Python cannot have."""
    return pod(
        metadata={"annotations": {key.replace("__", ".sidecar.istio.io/"): text for key, text in annotations.items()}}
    )


def named(made: Json, name: str) -> Json:
    """One of a pod's containers."""
    found = [*made["spec"].get("initContainers", ()), *made["spec"]["containers"]]
    return next(one for one in found if one["name"] == name)


def patched(document: Any, operations: list[Json]) -> Any:
    """RFC 6902, as far as injection uses it."""
    made = copy.deepcopy(document)
    for one in operations:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in one["path"].split("/")[1:]]
        holder = made
        for step in way:
            holder = holder[int(step)] if isinstance(holder, list) else holder[step]
        if isinstance(holder, list):
            at = len(holder) if last == "-" else int(last)
            if one["op"] == "add":
                assert 0 <= at <= len(holder)
                holder.insert(at, one["value"])
            else:
                assert one["op"] == "replace"
                holder[at] = one["value"]
        elif one["op"] == "remove":
            del holder[last]
        else:
            assert one["op"] == "add" or last in holder
            holder[last] = one["value"]
    return made
