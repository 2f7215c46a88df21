"""Transcripts of the state-of-the-world variant."""

import pytest
from xds_mesh import cluster, endpoints, listener, pulled, routes, snapshot, sotw, transcript

from pymesh.control.xds import pb
from pymesh.control.xds.session import MAX_TYPES, Outcome, SessionError
from pymesh.control.xds.sotw import SotwSession


def started(*messages: object) -> SotwSession:
    """A session that has sent and had acknowledged everything in ``messages``, by wildcard where there is
    one.
    """
    session = SotwSession()
    session.update(snapshot(*messages))
    for url, names in (
        (pb.CLUSTER, ()),
        (pb.ENDPOINTS, [m.cluster_name for m in messages if isinstance(m, pb.ClusterLoadAssignment)]),
        (pb.LISTENER, ()),
        (pb.ROUTES, [m.name for m in messages if isinstance(m, pb.RouteConfiguration)]),
    ):
        session.receive(sotw(url, *names))
        for response in pulled(session):
            subscription = session._types[response.type_url]
            session.receive(sotw(response.type_url, *sorted(subscription.names), nonce=response.nonce))
    assert pulled(session) == []
    return session


def test_first_requests_are_answered_in_dependency_order() -> None:
    session = SotwSession()
    session.update(snapshot(cluster("a", eds=True), endpoints("a", 1), listener("l"), routes("r")))
    session.receive(sotw(pb.ROUTES, "r"))
    session.receive(sotw(pb.LISTENER))
    session.receive(sotw(pb.ENDPOINTS, "a"))
    session.receive(sotw(pb.CLUSTER))
    assert transcript(session) == [
        ("Cluster", ["a"], []),
        ("ClusterLoadAssignment", ["a"], []),
        ("Listener", ["l"], []),
        ("RouteConfiguration", ["r"], []),
    ]


def test_a_type_that_is_empty_is_still_answered_once() -> None:
    session = SotwSession()
    session.receive(sotw(pb.LISTENER))
    assert transcript(session) == [("Listener", [], [])]
    assert transcript(session) == []


def test_only_the_changed_type_is_sent_and_clusters_are_complete() -> None:
    session = started(cluster("a"), cluster("b"), listener("l"))
    session.update(snapshot(cluster("a", timeout=2), cluster("b"), listener("l")))
    assert transcript(session) == [("Cluster", ["a", "b"], [])]


def test_endpoints_are_sent_partially() -> None:
    session = started(endpoints("a", 1), endpoints("b", 1))
    session.update(snapshot(endpoints("a", 1), endpoints("b", 1, 2)))
    assert transcript(session) == [("ClusterLoadAssignment", ["b"], [])]


def test_a_retired_cluster_goes_after_the_routes_that_used_it() -> None:
    session = started(cluster("v1"), routes("r", "one"))
    session.update(snapshot(cluster("v2"), routes("r", "two")))
    assert transcript(session) == [
        ("Cluster", ["v2", "v1"], []),
        ("RouteConfiguration", ["r"], []),
        ("Cluster", ["v2"], []),
    ]


def test_routes_wait_until_the_endpoints_of_new_clusters_were_asked_for() -> None:
    session = started(cluster("v1", eds=True), endpoints("v1", 1), routes("r", "one"))
    session.update(snapshot(cluster("v2", eds=True), endpoints("v2", 2), routes("r", "two")))
    (sent,) = pulled(session)
    session.receive(sotw(pb.CLUSTER, nonce=sent.nonce, version=sent.version))
    assert transcript(session) == []
    asked = next(s for s in session._types.values() if s.type_url == pb.ENDPOINTS)
    session.receive(sotw(pb.ENDPOINTS, "v1", "v2", nonce=asked.nonce, version=asked.sent_version))
    assert transcript(session) == [
        ("ClusterLoadAssignment", ["v2"], []),
        ("RouteConfiguration", ["r"], []),
        ("Cluster", ["v2"], []),
    ]


def test_a_removed_listener_is_left_out_at_once() -> None:
    session = started(listener("a"), listener("b"))
    session.update(snapshot(listener("b")))
    assert transcript(session) == [("Listener", ["b"], [])]


def test_a_changed_cluster_is_owed_its_unchanged_endpoints() -> None:
    session = started(cluster("a", eds=True), cluster("b", eds=True), endpoints("a", 1), endpoints("b", 1))
    session.update(
        snapshot(cluster("a", timeout=9, eds=True), cluster("b", eds=True), endpoints("a", 1), endpoints("b", 1))
    )
    assert transcript(session) == [("Cluster", ["a", "b"], []), ("ClusterLoadAssignment", ["a"], [])]


def test_acknowledgement_is_recorded() -> None:
    session = SotwSession()
    session.update(snapshot(cluster("a")))
    session.receive(sotw(pb.CLUSTER))
    (response,) = pulled(session)
    received = session.receive(sotw(pb.CLUSTER, nonce=response.nonce, version=response.version))
    assert (received.outcome, received.version) == (Outcome.ACKED, response.version)
    (status,) = session.status()
    assert status.acked_version == status.sent_version == response.version


def test_a_rejected_response_is_not_sent_again_until_something_changes() -> None:
    session = SotwSession()
    session.update(snapshot(cluster("a")))
    session.receive(sotw(pb.CLUSTER))
    (response,) = pulled(session)
    received = session.receive(sotw(pb.CLUSTER, nonce=response.nonce, error="no such thing"))
    assert (received.outcome, received.reason) == (Outcome.REJECTED, "no such thing")
    assert session.status()[0].rejection == "no such thing"
    assert transcript(session) == []
    session.update(snapshot(cluster("a", timeout=5)))
    (again,) = pulled(session)
    session.receive(sotw(pb.CLUSTER, nonce=again.nonce, version=again.version))
    assert session.status()[0].rejection == ""


def test_a_stale_nonce_is_ignored() -> None:
    session = SotwSession()
    session.update(snapshot(endpoints("a", 1), endpoints("b", 1)))
    session.receive(sotw(pb.ENDPOINTS, "a"))
    (first,) = pulled(session)
    session.update(snapshot(endpoints("a", 2), endpoints("b", 1)))
    (second,) = pulled(session)
    assert session.receive(sotw(pb.ENDPOINTS, "a", "b", nonce=first.nonce)).outcome is Outcome.STALE
    assert transcript(session) == []
    session.receive(sotw(pb.ENDPOINTS, "a", "b", nonce=second.nonce))
    assert transcript(session) == [("ClusterLoadAssignment", ["b"], [])]


def test_a_second_request_before_the_first_response_extends_it() -> None:
    session = SotwSession()
    session.update(snapshot(endpoints("a", 1), endpoints("b", 1)))
    session.receive(sotw(pb.ENDPOINTS, "a"))
    assert session.receive(sotw(pb.ENDPOINTS, "a", "b")).outcome is Outcome.SUBSCRIBED
    assert transcript(session) == [("ClusterLoadAssignment", ["a", "b"], [])]


def test_a_name_asked_for_again_is_sent_again() -> None:
    session = started(routes("a"), routes("b"))
    nonce = session._types[pb.ROUTES].nonce
    session.receive(sotw(pb.ROUTES, "a", nonce=nonce))
    assert transcript(session) == []
    session.receive(sotw(pb.ROUTES, "a", "b", nonce=nonce))
    assert transcript(session) == [("RouteConfiguration", ["b"], [])]


def test_named_clusters_replace_the_legacy_wildcard() -> None:
    session = started(cluster("a"), cluster("b"))
    nonce = session._types[pb.CLUSTER].nonce
    session.receive(sotw(pb.CLUSTER, "a", nonce=nonce))
    session.update(snapshot(cluster("a", timeout=2), cluster("b", timeout=2)))
    # b is no longer subscribed, but it goes only after everything else was sent.
    assert transcript(session)[-1] == ("Cluster", ["a"], [])


def test_explicit_wildcard_works_for_every_type() -> None:
    session = SotwSession()
    session.update(snapshot(routes("a"), routes("b")))
    session.receive(sotw(pb.ROUTES, "*"))
    assert transcript(session) == [("RouteConfiguration", ["a", "b"], [])]


def test_an_empty_first_request_of_routes_is_no_wildcard() -> None:
    session = SotwSession()
    session.update(snapshot(routes("a")))
    session.receive(sotw(pb.ROUTES))
    assert transcript(session) == [("RouteConfiguration", [], [])]


def test_only_the_latest_snapshot_is_sent() -> None:
    session = started(endpoints("a", 1))
    for port in range(2, 50):
        session.update(snapshot(endpoints("a", port)))
    (response,) = pulled(session)
    (packed,) = pb.DiscoveryResponse.FromString(response.body).resources
    assert pb.unpack(packed) == endpoints("a", 49)


def test_a_snapshot_that_returns_to_what_was_sent_sends_nothing() -> None:
    session = started(endpoints("a", 1))
    session.update(snapshot(endpoints("a", 2)))
    session.update(snapshot(endpoints("a", 1)))
    assert transcript(session) == []


def test_what_no_protocol_allows_ends_the_stream() -> None:
    with pytest.raises(SessionError, match="not a resource type"):
        SotwSession().receive(sotw("envoy.config.cluster.v3.Cluster"))
    session = SotwSession()
    for number in range(MAX_TYPES):
        session.receive(sotw(f"{pb.TYPE_PREFIX}t{number}"))
    with pytest.raises(SessionError, match="more than"):
        session.receive(sotw(f"{pb.TYPE_PREFIX}one-more"))
