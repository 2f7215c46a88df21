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
        Counts::Requests(_) => panic!("it counts requests"),
    }
}

fn requests(series: &Series) -> u64 {
    match &series.counts {
        Counts::Requests(counts) => counts.requests.value(),
        Counts::Connections(_) => panic!("it counts connections"),
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
    assert_eq!(shown(own), [true, false, false, false, false, false, false, false]);
    assert_eq!(
        shown(rest),
        [false, true, true, false, false, false, false, false],
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
