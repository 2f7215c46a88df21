"""Tables that are put together from layers say the same as whole ones, and streams hear the same of them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from xds_mesh import cluster, delta, endpoints, pulled, said, sotw

from pymesh.control.xds import pb
from pymesh.control.xds.cache import ResourceCache, Snapshot
from pymesh.control.xds.delta import DeltaSession
from pymesh.control.xds.layers import Layer, Layered
from pymesh.control.xds.session import Session
from pymesh.control.xds.sotw import SotwSession

Messages = dict[str, Layered[Any]]


def layer(*names: str) -> Layer:
    return Layer({name: endpoints(name, 1) for name in names})


def test_a_layer_is_encoded_once_whoever_has_it_as_a_part() -> None:
    cache, part = ResourceCache(), layer("a")
    tables = [cache.snapshot({pb.ENDPOINTS: Layer.joined([part, layer(name)])})[pb.ENDPOINTS] for name in ("b", "c")]
    assert tables[0].resources["a"] is tables[1].resources["a"]
    assert [list(table.resources) for table in tables] == [["a", "b"], ["a", "c"]]
    part["a"] = "nobody looks at this again"
    assert list(cache.snapshot({pb.ENDPOINTS: Layer.joined([part])})[pb.ENDPOINTS].resources) == ["a"]


def test_a_table_knows_where_it_differs_from_those_before_it() -> None:
    cache = ResourceCache()
    common, own = layer("a", "b", "c"), layer("z")
    first = cache.snapshot({pb.ENDPOINTS: Layered(common, own)})[pb.ENDPOINTS]
    fresh = common.replaced([Layer({"b": endpoints("b", 2)})])
    second = cache.snapshot({pb.ENDPOINTS: Layered(fresh, own)})[pb.ENDPOINTS]
    again = fresh.replaced([Layer({"c": endpoints("c", 2)}), layer("a")])
    third = cache.snapshot({pb.ENDPOINTS: Layered(again, own)})[pb.ENDPOINTS]
    assert second.differing(first) == {"b"}
    assert third.differing(first) == {"b", "c"}, "what is the same again does not differ"
    assert third.differing(third) == frozenset()
    other = cache.snapshot({pb.ENDPOINTS: Layered(again, layer("y"))})[pb.ENDPOINTS]
    assert other.differing(third) is None
    assert first.differing(second) is None, "it knows nothing of what came later"


class Told:
    """A client and its stream."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.has: dict[str, Any] = {}
        request = delta if isinstance(session, DeltaSession) else sotw
        session.receive(request(pb.CLUSTER))
        session.receive(request(pb.ENDPOINTS, *"abcdz"))

    def hear(self, snapshot: Snapshot, *, whole: bool = True) -> list[tuple[str, list[str], list[str]]]:
        """Everything that it is told of a snapshot; without `whole` the first response alone, and the rest later."""
        self.session.update(snapshot)
        heard = pulled(self.session) if whole else [one for one in (self.session.pull(),) if one is not None]
        for response in heard:
            decoded: Any = pb.DeltaDiscoveryResponse.FromString(response.body)
            for one in decoded.resources:
                self.has[one.name] = one.version
            for name in decoded.removed_resources:
                self.has.pop(name, None)
        return [said(one) for one in heard]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("kind", [DeltaSession, SotwSession])
def test_streams_hear_the_same_of_layers_as_of_whole_tables(kind: type[Session], seed: int) -> None:
    rng = random.Random(seed)
    layers, plain = ResourceCache(), ResourceCache()
    common, own, clusters = layer("a", "b", "c"), layer("z"), Layer({"a": cluster("a", eds=True)})
    kept = [common]  # to which it goes back
    of_layers, of_whole = Told(kind()), Told(kind())
    before: tuple[Snapshot | None, Snapshot | None] = (None, None)
    for _ in range(25):
        turn = rng.random()
        if turn < 0.5:
            parts = [Layer({name: endpoints(name, rng.randrange(3))}) for name in rng.sample("abcd", rng.randrange(3))]
            common = common.replaced(parts)
            kept.append(common)
        elif turn < 0.75:
            common = rng.choice(kept[-2:])
            kept.append(common)
        elif turn < 0.85:
            own = layer(*rng.sample("az", rng.randrange(3)))
        else:
            clusters = clusters.replaced([Layer({"a": cluster("a", eds=True, timeout=rng.randrange(1, 3))})])
        messages: Messages = {pb.ENDPOINTS: Layered(common, own), pb.CLUSTER: Layered(clusters, Layer())}
        first = layers.snapshot(messages, before[0])
        second = plain.snapshot({url: dict(named) for url, named in messages.items()}, before[1])
        before = (first, second)
        whole = rng.random() < 0.5
        heard = of_layers.hear(first, whole=whole)
        assert heard == of_whole.hear(second, whole=whole)
        states = [[(t.resources, t.is_behind) for t in one.session.status()] for one in (of_layers, of_whole)]
        assert states[0] == states[1]
        if whole and kind is DeltaSession:
            expected = {name: one.version for name, one in second[pb.ENDPOINTS].resources.items()}
            assert {**of_layers.has, "a": None} == {**expected, "a": None}
