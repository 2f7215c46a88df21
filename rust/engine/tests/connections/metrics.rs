//! Istio's metrics: what is counted of requests and connections, and by which labels.

use std::sync::Arc;

use pymesh_engine::telemetry::istio::{Counts, Series};
use pymesh_model::format::Operator;
use pymesh_model::listener::Direction;
use pymesh_model::stats::{LabelOverride, LabelValue, Metric, MetricGroup, Metrics, Stats};

use super::rig::{Rig, Setup};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nhost: a\r\nx-user: ann\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn label<'a>(series: &'a Series, name: &str) -> Option<&'a str> {
    series.labels.iter().find(|(known, _)| &**known == name).map(|(_, value)| &**value)
}

/// Opened, closed, sent and received.
fn connections(series: &Series) -> [u64; 4] {
    match &series.counts {
        Counts::Connections(counts) => {
            [&counts.opened, &counts.closed, &counts.sent_bytes, &counts.received_bytes].map(|counter| counter.value())
        }
        other => panic!("{other:?}"),
    }
}

/// Those of the request, and of the response.
fn messages(series: &Series) -> [u64; 2] {
    match &series.counts {
        Counts::Messages(counts) => [counts.request.value(), counts.response.value()],
        other => panic!("{other:?}"),
    }
}

fn requests(series: &Series) -> u64 {
    match &series.counts {
        Counts::Requests(counts) => counts.requests.value(),
        other => panic!("{other:?}"),
    }
}

fn tcp(direction: Direction) -> Rig {
    Rig::new(&Setup { is_tcp: true, direction, ..Setup::default() })
}

#[test]
fn octets_of_a_connection_are_counted_while_it_is_open() {
    let mut rig = tcp(Direction::Outbound);
    let client = rig.accept();
    assert!(rig.shard.series().is_empty(), "nobody knows yet where it goes");
    let upstream = rig.open();
    rig.receive(client, b"ask");
    rig.receive(upstream, b"answer");
    let [series] = &rig.shard.series()[..] else { panic!("one series") };
    assert_eq!(connections(series), [1, 0, 6, 3]);
    let labels = ["reporter", "request_protocol", "response_flags", "connection_security_policy", "response_code"];
    assert_eq!(
        labels.map(|name| label(series, name)),
        [Some("source"), Some("tcp"), Some("-"), Some("unknown"), None],
        "a connection has no status"
    );
    rig.end(client);
    rig.end(upstream);
    assert_eq!(connections(series), [1, 1, 6, 3]);
    let again = rig.accept();
    rig.open();
    rig.receive(again, b"ask");
    assert_eq!(connections(series), [2, 1, 6, 6]);
    assert_eq!(rig.shard.series().len(), 1);
}

#[test]
fn a_connection_that_reaches_nobody_is_counted_with_its_reason() {
    let mut rig = tcp(Direction::Inbound);
    rig.accept();
    let upstream = rig.connecting();
    rig.engine.failed(upstream, "refused");
    rig.work();
    let [series] = &rig.shard.series()[..] else { panic!("one series") };
    assert_eq!(connections(series), [1, 1, 0, 0]);
    assert_eq!(label(series, "reporter"), Some("destination"));
    assert_eq!(label(series, "response_flags"), Some("URX,UF"));
    assert_eq!(label(series, "connection_security_policy"), Some("none"));
}

fn group(metrics: &[Metric], labels: &[(&str, Option<LabelValue>)]) -> MetricGroup {
    MetricGroup {
        metrics: metrics.iter().fold(Metrics::default(), |all, metric| all.with(*metric)),
        labels: labels
            .iter()
            .map(|(name, value)| LabelOverride { name: (*name).into(), value: value.clone() })
            .collect(),
    }
}

fn text(value: &str) -> Option<LabelValue> {
    Some(LabelValue { sources: vec![], otherwise: value.into() })
}

fn ask(stats: Stats) -> Vec<Arc<Series>> {
    let setup = Setup { direction: Direction::Outbound, stats: Some(Arc::new(stats)), ..Setup::default() };
    let mut rig = Rig::new(&setup);
    let client = rig.accept();
    for user in ["ann", "bob", "ann"] {
        rig.receive(client, &String::from_utf8_lossy(GET).replace("ann", user).into_bytes());
        let upstream = rig.open_or_reuse();
        rig.receive(upstream, OK);
    }
    rig.shard.series()
}

#[test]
fn metrics_with_labels_of_their_own_have_series_of_their_own() {
    let own = group(
        &[Metric::Requests],
        &[("reporter", None), ("response_code", text("any")), ("added", text("here")), ("not there", None)],
    );
    let rest = group(&[Metric::RequestDuration, Metric::RequestBytes], &[]);
    let series = ask(Stats { groups: vec![own, rest] });
    let [own, rest] = &series[..] else { panic!("two series") };
    assert_eq!((requests(own), requests(rest)), (3, 3));
    let labels = ["reporter", "response_code", "added"];
    assert_eq!(labels.map(|name| label(own, name)), [None, Some("any"), Some("here")]);
    assert_eq!(labels.map(|name| label(rest, name)), [Some("source"), Some("200"), None]);
    let shown = |series: &Series| Metric::ALL.map(|metric| series.metrics.has(metric));
    let only = |wanted: &[Metric]| Metric::ALL.map(|metric| wanted.contains(&metric));
    assert_eq!(shown(own), only(&[Metric::Requests]));
    assert_eq!(
        shown(rest),
        only(&[Metric::RequestDuration, Metric::RequestBytes]),
        "what is in no group is not counted"
    );
}

#[test]
fn a_label_may_be_what_the_client_says() {
    let user = LabelValue { sources: vec![Operator::Request("x-user".into(), None, None)], otherwise: "nobody".into() };
    let team = LabelValue { sources: vec![Operator::Request("x-team".into(), None, None)], otherwise: "none".into() };
    let labels = [("user", Some(user)), ("team", Some(team))];
    let series = ask(Stats { groups: vec![group(&[Metric::Requests], &labels)] });
    let found: Vec<_> =
        series.iter().map(|series| (label(series, "user"), label(series, "team"), requests(series))).collect();
    assert_eq!(found, [(Some("ann"), Some("none"), 2), (Some("bob"), Some("none"), 1)]);
}

#[test]
fn nothing_is_counted_where_nothing_is_wanted() {
    assert!(ask(Stats { groups: vec![] }).is_empty());
}

/// gRPC over HTTP/1.1: the engine looks at bodies, whatever carries them.
const CALL: &[u8] = b"POST /s/m HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\ncontent-length: 14\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: 12\r\n\r\n";
/// One of four octets and an empty one.
const TWO: &[u8] = b"\0\0\0\0\x04abcd\0\0\0\0\0";
/// One of two octets and an empty one.
const SMALL: &[u8] = b"\0\0\0\0\x02ab\0\0\0\0\0";

fn of_messages(rig: &Rig) -> Vec<Arc<Series>> {
    rig.shard.series().into_iter().filter(|series| matches!(series.counts, Counts::Messages(_))).collect()
}

#[test]
fn messages_are_counted_while_they_pass() {
    let mut rig = Rig::new(&Setup { direction: Direction::Outbound, ..Setup::default() });
    let client = rig.accept();
    rig.receive(client, &[CALL, &TWO[..9]].concat());
    let upstream = rig.open();
    assert!(of_messages(&rig).is_empty(), "nobody knows yet who answers");
    rig.receive(upstream, &[ANSWER, &SMALL[..1]].concat());
    let [series] = &of_messages(&rig)[..] else { panic!("one series") };
    assert_eq!(messages(series), [1, 1], "each counts with its first octet");
    rig.receive(client, &TWO[9..]);
    rig.receive(upstream, &SMALL[1..3]);
    assert_eq!(messages(series), [2, 1], "the request goes on");
    rig.receive(upstream, &SMALL[3..]);
    assert_eq!(messages(series), [2, 2]);
    let labels = ["reporter", "destination_service", "destination_cluster", "request_protocol", "response_code"];
    assert_eq!(labels.map(|name| label(series, name)), [Some("source"), Some("unknown"), Some("unknown"), None, None]);

    // An answer before the end of its request closes a connection of HTTP/1.
    let client = rig.accept();
    rig.receive(client, &[CALL, TWO].concat());
    rig.receive(upstream, b"HTTP/1.1 404 No\r\ncontent-type: application/grpc\r\ncontent-length: 1\r\n\r\n\0");
    assert_eq!(messages(series), [4, 2], "what is no answer of gRPC has no messages");
    rig.receive(client, GET);
    rig.receive(upstream, OK);
    assert_eq!(messages(series), [4, 2]);
    assert_eq!(of_messages(&rig).len(), 1);
}

#[test]
fn messages_of_a_request_that_nobody_answers_are_counted_at_its_end() {
    let mut rig = Rig::new(&Setup { direction: Direction::Outbound, ..Setup::default() });
    let client = rig.accept();
    rig.receive(client, &[CALL, TWO].concat());
    let upstream = rig.connecting();
    rig.engine.failed(upstream, "refused");
    rig.work();
    let [series] = &of_messages(&rig)[..] else { panic!("one series") };
    assert_eq!(messages(series), [2, 0]);
}

#[test]
fn messages_are_not_counted_where_they_are_not_wanted() {
    let groups = vec![group(&[Metric::Requests], &[])];
    let stats = Some(Arc::new(Stats { groups }));
    let mut rig = Rig::new(&Setup { direction: Direction::Outbound, stats, ..Setup::default() });
    let client = rig.accept();
    rig.receive(client, &[CALL, TWO].concat());
    let upstream = rig.open();
    rig.receive(upstream, &[ANSWER, SMALL].concat());
    let [series] = &rig.shard.series()[..] else { panic!("one series") };
    assert_eq!(requests(series), 1);
}

/// Labels that are equal do not make one series of two kinds.
#[test]
fn what_is_counted_is_part_of_what_a_series_is() {
    let gone = ["request_protocol", "response_flags", "connection_security_policy", "response_code"];
    let labels: Vec<_> = gone.into_iter().chain(["grpc_response_status"]).map(|name| (name, None)).collect();
    let stats = Some(Arc::new(Stats { groups: vec![group(&Metric::ALL, &labels)] }));
    let mut rig = Rig::new(&Setup { direction: Direction::Outbound, stats, ..Setup::default() });
    let client = rig.accept();
    rig.receive(client, &[CALL, TWO].concat());
    let upstream = rig.open();
    rig.receive(upstream, &[ANSWER, SMALL].concat());
    let series = rig.shard.series();
    let [of_messages, of_requests] = &series[..] else { panic!("two series") };
    assert_eq!((messages(of_messages), requests(of_requests)), ([2, 2], 1));
    assert_eq!(of_messages.labels, of_requests.labels);
}
