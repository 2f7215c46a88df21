"""Views of a state, and what changed from one to the next.

A delta holds what is new or different, whole, and the ids of what is gone. Applied to the state that it starts from it
gives the state that it leads to; both are numbered, so that a reader that missed one knows it.
"""

from __future__ import annotations

from typing import Any

from pymesh.control.live.graph import State

Delta = dict[str, Any]


def of_namespace(state: State, namespace: str) -> State:
    """The part of a state around one namespace: what is in it, and who it speaks with. All of it if that is empty."""
    if not namespace:
        return state
    nodes = {key for key, node in state["nodes"].items() if node["namespace"] == namespace}
    edges = {key: edge for key, edge in state["edges"].items() if nodes & {edge["source"], edge["target"]}}
    near = nodes | {edge[side] for edge in edges.values() for side in ("source", "target")}
    shown = {key: node for key, node in state["nodes"].items() if key in near}
    services = {f"{node['namespace']}/{node['service']}" for node in shown.values()}
    return {
        **state,
        "nodes": shown,
        "edges": edges,
        "services": {key: one for key, one in state["services"].items() if key in services},
    }


def between(before: State, after: State) -> Delta:
    """What to change in ``before`` to have ``after``; empty if nothing."""
    changed: dict[str, list[dict[str, Any]]] = {}
    gone: dict[str, list[str]] = {}
    for kind in sorted(before.keys() | after.keys()):
        old, new = before.get(kind, {}), after.get(kind, {})
        different = [item for key, item in new.items() if old.get(key) != item]
        missing = sorted(old.keys() - new.keys())
        if different:
            changed[kind] = different
        if missing:
            gone[kind] = missing
    return {name: part for name, part in (("set", changed), ("gone", gone)) if part}


def applied(state: State, delta: Delta) -> State:
    """The state after a delta."""
    after = {kind: dict(items) for kind, items in state.items()}
    for kind, items in delta.get("set", {}).items():
        after.setdefault(kind, {}).update({item["id"]: item for item in items})
    for kind, keys in delta.get("gone", {}).items():
        for key in keys:
            after.get(kind, {}).pop(key, None)
    return after
