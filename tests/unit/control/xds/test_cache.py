"""Encoding once, sharing by content, and versions that survive a restart."""

import gc

from xds_mesh import cluster, endpoints

from pymesh.control.xds import pb
from pymesh.control.xds.cache import ResourceCache


def test_equal_content_is_one_object_and_other_content_another() -> None:
    cache = ResourceCache()
    first = cache.resource(pb.CLUSTER, "a", cluster("a"))
    assert cache.resource(pb.CLUSTER, "a", cluster("a")) is first
    assert cache.resource(pb.CLUSTER, "a", cluster("a", timeout=2)) is not first


def test_versions_do_not_depend_on_the_process() -> None:
    one, two = (ResourceCache().resource(pb.CLUSTER, "a", cluster("a")) for _ in range(2))
    assert one.version == two.version


def test_unused_resources_are_dropped() -> None:
    cache = ResourceCache()
    kept = cache.resource(pb.CLUSTER, "a", cluster("a"))
    cache.resource(pb.CLUSTER, "b", cluster("b"))
    gc.collect()
    assert len(cache) == 1
    assert kept.message() == cluster("a")


def test_encoded_fields_are_what_protobuf_itself_would_write() -> None:
    big = endpoints("a", *range(1, 3000))
    resource = ResourceCache().resource(pb.ENDPOINTS, "a", big)
    assert resource.sotw == pb.encode(pb.DiscoveryResponse(resources=[pb.pack(big)]))
    framed = pb.message("envoy.service.discovery.v3.Resource")(
        name="a", version=resource.version, resource=pb.pack(big)
    )
    assert resource.delta == pb.encode(pb.DeltaDiscoveryResponse(resources=[framed]))


def test_an_unchanged_table_stays_the_same_object() -> None:
    cache = ResourceCache()
    before = cache.snapshot({pb.CLUSTER: {"a": cluster("a")}, pb.ENDPOINTS: {"a": endpoints("a", 1)}})
    after = cache.snapshot({pb.CLUSTER: {"a": cluster("a")}, pb.ENDPOINTS: {"a": endpoints("a", 2)}}, previous=before)
    assert after[pb.CLUSTER] is before[pb.CLUSTER]
    assert after[pb.ENDPOINTS].version != before[pb.ENDPOINTS].version


def test_clusters_know_the_endpoints_they_wait_for() -> None:
    cache = ResourceCache()
    renamed = cluster("a", eds=True)
    renamed.eds_cluster_config.service_name = "service-a"
    assert cache.resource(pb.CLUSTER, "s", cluster("s")).endpoints is None
    assert cache.resource(pb.CLUSTER, "e", cluster("e", eds=True)).endpoints == "e"
    assert cache.resource(pb.CLUSTER, "a", renamed).endpoints == "service-a"
