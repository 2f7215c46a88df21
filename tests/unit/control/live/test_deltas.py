"""Deltas lead from any state to any other, and from nothing to nothing."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from pymesh.control.live import deltas

ITEMS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)).map(
    lambda values: {key: {"id": key, "value": value} for key, value in values.items()}
)
STATES = st.fixed_dictionaries({"nodes": ITEMS, "edges": ITEMS})


@given(STATES, STATES)
def test_a_delta_leads_from_one_state_to_the_other(before: deltas.State, after: deltas.State) -> None:
    delta = json.loads(json.dumps(deltas.between(before, after)))
    assert deltas.applied(before, delta) == after
    assert (delta == {}) == (before == after)


def test_a_namespace_is_seen_with_whom_it_speaks() -> None:
    def node(namespace: str, name: str) -> dict[str, str]:
        return {"id": f"{namespace}/{name}", "namespace": namespace, "service": name}

    nodes = [node("a", "x"), node("b", "y"), node("b", "z"), node("c", "w")]
    pairs = [("a/x", "b/y"), ("b/y", "b/z"), ("b/z", "c/w")]
    state = {
        "nodes": {one["id"]: one for one in nodes},
        "edges": {f"{s}>{t}": {"id": f"{s}>{t}", "source": s, "target": t} for s, t in pairs},
        "services": {one["id"]: one for one in nodes},
        "namespaces": {"a": {"id": "a"}, "b": {"id": "b"}},
    }
    seen = deltas.of_namespace(state, "a")
    assert set(seen["nodes"]) == {"a/x", "b/y"} == set(seen["services"])
    assert set(seen["edges"]) == {"a/x>b/y"}
    assert seen["namespaces"] == state["namespaces"]
    assert deltas.of_namespace(state, "") == state
