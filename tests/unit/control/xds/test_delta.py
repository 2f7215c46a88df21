"""Transcripts of the incremental variant."""

from xds_mesh import cluster, delta, endpoints, listener, pulled, routes, snapshot, transcript

from pymesh.control.xds import pb
from pymesh.control.xds.delta import DeltaSession
from pymesh.control.xds.session import Outcome


def started(*messages: object) -> DeltaSession:
    """A session whose client subscribed to everything in ``messages`` and acknowledged it."""
    session = DeltaSession()
    session.update(snapshot(*messages))
    session.receive(delta(pb.CLUSTER))
    session.receive(delta(pb.LISTENER))
    named = [m.cluster_name for m in messages if isinstance(m, pb.ClusterLoadAssignment)]
    session.receive(delta(pb.ENDPOINTS, *named))
    session.receive(delta(pb.ROUTES, *[m.name for m in messages if isinstance(m, pb.RouteConfiguration)]))
    for response in pulled(session):
        session.receive(delta(response.type_url, nonce=response.nonce))
    assert pulled(session) == []
    return session


def test_first_requests_are_answered_in_dependency_order() -> None:
    session = DeltaSession()
    session.update(snapshot(cluster("a", eds=True), endpoints("a", 1), listener("l"), routes("r")))
    session.receive(delta(pb.ROUTES, "r"))
    session.receive(delta(pb.LISTENER))
    session.receive(delta(pb.ENDPOINTS, "a"))
    session.receive(delta(pb.CLUSTER))
    assert transcript(session) == [
        ("Cluster", ["a"], []),
        ("ClusterLoadAssignment", ["a"], []),
        ("Listener", ["l"], []),
        ("RouteConfiguration", ["r"], []),
    ]


def test_only_changed_resources_are_sent() -> None:
    session = started(cluster("a"), cluster("b"), listener("l"))
    session.update(snapshot(cluster("a"), cluster("b", timeout=2), cluster("c"), listener("l")))
    assert transcript(session) == [("Cluster", ["b", "c"], [])]


def test_resources_carry_the_hash_of_their_content_as_version() -> None:
    session = DeltaSession()
    table = snapshot(cluster("a"), cluster("b"))
    session.update(table)
    session.receive(delta(pb.CLUSTER))
    (response,) = pulled(session)
    decoded = pb.DeltaDiscoveryResponse.FromString(response.body)
    assert {r.name: r.version for r in decoded.resources} == {
        n: r.version for n, r in table[pb.CLUSTER].resources.items()
    }
    assert pb.unpack(decoded.resources[0].resource) == cluster("a")


def test_a_retired_cluster_goes_after_the_routes_that_used_it() -> None:
    session = started(cluster("v1"), listener("old"), routes("r", "one"))
    session.update(snapshot(cluster("v2"), routes("r", "two")))
    assert transcript(session) == [
        ("Cluster", ["v2"], []),
        ("Listener", [], ["old"]),
        ("RouteConfiguration", ["r"], []),
        ("Cluster", [], ["v1"]),
    ]


def test_routes_wait_until_the_endpoints_of_new_clusters_were_asked_for() -> None:
    session = started(cluster("v1", eds=True), endpoints("v1", 1), listener("l"), routes("r", "one"))
    session.update(snapshot(cluster("v2", eds=True), endpoints("v2", 2), listener("l", "new"), routes("r", "two")))
    (sent,) = pulled(session)
    assert sent.type_url == pb.CLUSTER
    session.receive(delta(pb.CLUSTER, nonce=sent.nonce))
    assert transcript(session) == [], "the acknowledgement alone does not say that the cluster can serve"
    assert session.awaits_endpoints()
    session.receive(delta(pb.ENDPOINTS, "v2"))
    assert transcript(session) == [
        ("ClusterLoadAssignment", ["v2"], []),
        ("Listener", ["l"], []),
        ("RouteConfiguration", ["r"], []),
        ("Cluster", [], ["v1"]),
        ("ClusterLoadAssignment", [], ["v1"]),
    ]


def test_a_reconnecting_proxy_gets_new_routes_after_the_clusters_behind_them() -> None:
    session = DeltaSession()
    session.update(snapshot(cluster("new", eds=True), endpoints("new", 2), listener("l"), routes("r", "two")))
    session.receive(delta(pb.CLUSTER, have={"old": "1"}))
    session.receive(delta(pb.ENDPOINTS, "old", have={"old": "1"}))
    session.receive(delta(pb.LISTENER))
    session.receive(delta(pb.ROUTES, "r"))
    assert [kind for kind, *_ in transcript(session)] == ["Cluster", "ClusterLoadAssignment"]
    session.receive(delta(pb.ENDPOINTS, "new"))
    assert [kind for kind, *_ in transcript(session)][:3] == ["ClusterLoadAssignment", "Listener", "RouteConfiguration"]


def test_who_never_asks_for_endpoints_is_not_waited_for_any_longer() -> None:
    session = started(cluster("v1", eds=True), endpoints("v1", 1), routes("r", "one"))
    session.update(snapshot(cluster("v2", eds=True), endpoints("v2", 2), routes("r", "two")))
    (sent,) = pulled(session)
    session.receive(delta(pb.CLUSTER, nonce=sent.nonce, error="no"))
    assert transcript(session) == []
    session.stop_waiting()
    assert transcript(session)[0] == ("RouteConfiguration", ["r"], [])
    assert not session.awaits_endpoints()


def test_a_name_that_does_not_exist_is_reported_as_removed_and_sent_when_it_appears() -> None:
    session = DeltaSession()
    session.update(snapshot(routes("a")))
    session.receive(delta(pb.ROUTES, "a", "ghost"))
    assert transcript(session) == [("RouteConfiguration", ["a"], ["ghost"])]
    session.update(snapshot(routes("a"), routes("ghost")))
    assert transcript(session) == [("RouteConfiguration", ["ghost"], [])]


def test_a_repeated_subscription_is_answered_again() -> None:
    session = started(routes("a"), routes("b"))
    session.receive(delta(pb.ROUTES, "a"))
    assert transcript(session) == [("RouteConfiguration", ["a"], [])]


def test_unsubscribed_names_are_forgotten_without_a_response() -> None:
    session = started(routes("a"), routes("b"))
    session.receive(delta(pb.ROUTES, unsubscribe=("a",)))
    session.update(snapshot(routes("a", "new"), routes("b")))
    assert transcript(session) == []


def test_reconnect_sends_only_what_differs() -> None:
    before = snapshot(cluster("same"), cluster("changed"), cluster("gone"))
    have = {n: r.version for n, r in before[pb.CLUSTER].resources.items()}
    session = DeltaSession()
    session.update(snapshot(cluster("same"), cluster("changed", timeout=7), cluster("new")))
    session.receive(delta(pb.CLUSTER, have=have))
    assert transcript(session) == [("Cluster", ["changed", "new"], []), ("Cluster", [], ["gone"])]


def test_reconnect_with_everything_current_gets_one_empty_answer() -> None:
    current = snapshot(endpoints("a", 1))
    session = DeltaSession()
    session.update(current)
    session.receive(delta(pb.ENDPOINTS, "a", have={"a": current[pb.ENDPOINTS].resources["a"].version}))
    assert transcript(session) == [("ClusterLoadAssignment", [], [])]
    assert transcript(session) == []


def test_reconnect_owes_endpoints_to_a_changed_cluster_even_when_the_client_has_them() -> None:
    current = snapshot(cluster("a", timeout=3, eds=True), endpoints("a", 1))
    session = DeltaSession()
    session.update(current)
    session.receive(delta(pb.CLUSTER, have={"a": "older"}))
    assert transcript(session) == [("Cluster", ["a"], [])]
    session.receive(delta(pb.ENDPOINTS, "a", have={"a": current[pb.ENDPOINTS].resources["a"].version}))
    assert transcript(session) == [("ClusterLoadAssignment", ["a"], [])]


def test_wildcard_and_names_together() -> None:
    session = DeltaSession()
    session.update(snapshot(cluster("a"), cluster("b")))
    session.receive(delta(pb.CLUSTER, "*", "a"))
    assert transcript(session) == [("Cluster", ["a", "b"], [])]
    session.receive(delta(pb.CLUSTER, unsubscribe=("*",)))
    session.update(snapshot(cluster("a", timeout=2), cluster("b", timeout=2)))
    assert transcript(session) == [("Cluster", ["a"], [])]


def test_a_named_first_subscription_is_no_wildcard() -> None:
    session = DeltaSession()
    session.update(snapshot(cluster("a"), cluster("b")))
    session.receive(delta(pb.CLUSTER, "a"))
    assert transcript(session) == [("Cluster", ["a"], [])]


def test_unsubscribing_a_name_that_the_wildcard_covers_is_answered() -> None:
    session = started(cluster("a"), cluster("b"))
    session.receive(delta(pb.CLUSTER, unsubscribe=("a", "ghost")))
    assert transcript(session) == [("Cluster", ["a"], ["ghost"])]


def test_acknowledgement_rejection_and_stale_nonces() -> None:
    session = DeltaSession()
    session.update(snapshot(cluster("a")))
    session.receive(delta(pb.CLUSTER))
    (first,) = pulled(session)
    session.update(snapshot(cluster("a", timeout=2)))
    (second,) = pulled(session)
    assert session.receive(delta(pb.CLUSTER, nonce=first.nonce)).version == first.version
    rejected = session.receive(delta(pb.CLUSTER, nonce=second.nonce, error="bad cluster a"))
    assert (rejected.outcome, rejected.reason) == (Outcome.REJECTED, "bad cluster a")
    assert session.receive(delta(pb.CLUSTER, nonce=second.nonce)).outcome is Outcome.STALE
    (status,) = session.status()
    assert (status.acked_version, status.rejected_version) == (first.version, second.version)
    assert transcript(session) == []


def test_a_subscription_counts_even_with_a_stale_nonce() -> None:
    session = started(routes("a"), routes("b"))
    assert session.receive(delta(pb.ROUTES, "b", nonce="unknown")).outcome is Outcome.STALE
    assert transcript(session) == [("RouteConfiguration", ["b"], [])]


def test_endpoints_that_vanish_are_removed_last() -> None:
    session = started(endpoints("a", 1), listener("l"))
    session.update(snapshot(listener("l2")))
    assert transcript(session) == [
        ("Listener", ["l2"], ["l"]),
        ("ClusterLoadAssignment", [], ["a"]),
    ]
