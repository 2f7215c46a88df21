"""The private pool: names, Any, JSON, and independence from protobuf's default pool."""

import pytest
from google.protobuf import descriptor_pool, struct_pb2

from pymesh.control.xds import pb


def test_short_name_and_full_name_give_the_same_class() -> None:
    assert pb.Listener is pb.message("envoy.config.listener.v3.Listener")
    assert pb.type_url(pb.Listener) == pb.LISTENER


def test_ambiguous_short_name_lists_the_candidates() -> None:
    with pytest.raises(AttributeError, match=r"xds\.type\.v3\.TypedStruct"):
        _ = pb.TypedStruct


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no top-level message"):
        _ = pb.Lisstener
    with pytest.raises(KeyError):
        pb.message("envoy.config.listener.v3.Lisstener")


def test_enum_by_name() -> None:
    direction = pb.enum("envoy.config.core.v3.TrafficDirection")
    assert direction.Value("OUTBOUND") == pb.TrafficDirection.Value("OUTBOUND") == 2


def test_any_survives_json_in_the_private_pool() -> None:
    listener = pb.Listener(name="inbound")
    listener.filter_chains.add().filters.add(
        name="tcp", typed_config=pb.pack(pb.TcpProxy(stat_prefix="tcp", cluster="db"))
    )
    shown = pb.to_json(listener)
    assert shown["filter_chains"][0]["filters"][0]["typed_config"]["cluster"] == "db"
    assert pb.from_json("envoy.config.listener.v3.Listener", shown) == listener


def test_unpack_is_the_inverse_of_pack() -> None:
    node = pb.Node(id="sidecar~1", cluster="shop")
    assert pb.unpack(pb.pack(node)) == node


def test_encoding_does_not_depend_on_insertion_order_of_maps() -> None:
    ahead, behind = pb.Node(), pb.Node()
    for key in ("a", "b", "c", "d"):
        ahead.metadata[key] = key
    for key in ("d", "c", "b", "a"):
        behind.metadata[key] = key
    assert pb.encode(ahead) == pb.encode(behind)


def test_default_pool_stays_untouched() -> None:
    _ = pb.Listener
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("envoy.config.listener.v3.Listener")
    assert struct_pb2.Struct is not pb.Struct
