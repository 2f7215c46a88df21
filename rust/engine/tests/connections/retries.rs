//! Retries and circuit breakers, one event at a time.

use std::time::Duration;

use pymesh_engine::base::rng::Rng;
use pymesh_engine::{Action, ConnKey};
use pymesh_model::cluster::{RetryBudget, Thresholds, UpstreamHttp};
use pymesh_model::route::{RetryOn, RetryPolicy};

use super::super::{GET, OK};
use super::rig::{address, Rig, Setup};

const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

/// Conditions under which nothing has been processed: what the control plane asks for by default.
fn unprocessed() -> RetryPolicy {
    let on = RetryOn { connect_failure: true, refused_stream: true, reset_before_request: true, ..RetryOn::default() };
    RetryPolicy { on, num_retries: 2, ..RetryPolicy::default() }
}

fn count(rig: &Rig, stat: &str) -> u64 {
    let groups = rig.hub.lock();
    let sums = pymesh_engine::telemetry::stats::sum(&groups.clusters["origin"]);
    sums.iter().find(|(name, ..)| *name == stat).unwrap().2
}

#[test]
fn a_post_that_may_have_been_processed_is_sent_once() {
    let mut rig = Rig::new(&Setup { retry: Some(unprocessed()), ..Setup::default() });
    let client = rig.accept();
    rig.receive(client, POST);
    let upstream = rig.open();
    assert!(rig.text(upstream).ends_with("hello"));
    rig.end(upstream);
    rig.pass(Duration::from_secs(5));
    assert!(rig.text(client).starts_with("HTTP/1.1 503 "));
    assert!(!rig.take_actions().iter().any(|action| matches!(action, Action::Connect(..))));
    assert_eq!((count(&rig, "upstream_rq_total"), count(&rig, "upstream_rq_retry")), (1, 0));
}

#[test]
fn a_post_that_nobody_has_seen_is_sent_again() {
    let mut rig = Rig::new(&Setup { retry: Some(unprocessed()), ..Setup::default() });
    let client = rig.accept();
    rig.receive(client, POST);
    let refused = rig.connecting();
    rig.engine.failed(refused, "refused");
    rig.work();
    rig.pass(Duration::from_secs(1));
    let upstream = rig.open();
    assert!(rig.text(upstream).ends_with("hello"));
    rig.receive(upstream, OK);
    assert!(rig.text(client).ends_with("hello"));
}

#[test]
fn a_request_that_was_sent_once_is_not_unsent_later() {
    let mut policy = unprocessed();
    policy.on.statuses = true;
    policy.statuses = vec![503];
    policy.on.connect_failure = false;
    let mut rig = Rig::new(&Setup { retry: Some(policy), ..Setup::default() });
    let client = rig.accept();
    rig.receive(client, POST);
    let upstream = rig.open();
    rig.receive(upstream, UNAVAILABLE);
    rig.end(upstream);
    rig.pass(Duration::from_secs(1));
    let refused = rig.connecting();
    rig.engine.failed(refused, "refused");
    rig.work();
    rig.pass(Duration::from_secs(1));
    assert!(rig.text(client).starts_with("HTTP/1.1 503 "), "the first attempt may have been processed");
}

#[test]
fn workers_share_circuit_breakers() {
    let thresholds = Thresholds { requests: 1, ..Thresholds::default() };
    let setup = Setup { thresholds, ..Setup::default() };
    let mut one = Rig::new(&setup);
    let mut other = Rig::beside(&one, &setup);
    let client = one.accept();
    one.receive(client, GET);
    let upstream = one.open();
    let second = other.accept();
    other.receive(second, GET);
    other.open();
    let answer = other.text(second);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-envoy-overloaded: true"), "{answer}");
    assert_eq!(count(&other, "upstream_rq_active_overflow"), 1);
    one.receive(upstream, OK);
    other.receive(second, GET);
    let answered = other.take_actions();
    assert!(answered.is_empty(), "its connection is idle: {answered:?}");
    assert_eq!(count(&other, "upstream_rq_active"), 1);
}

#[test]
fn a_connection_ends_at_its_age_with_its_last_request() {
    let upstream = UpstreamHttp { max_connection_duration: Duration::from_secs(10), ..UpstreamHttp::default() };
    let mut rig = Rig::new(&Setup { upstream, ..Setup::default() });
    let client = rig.accept();
    rig.receive(client, GET);
    let first = rig.open();
    rig.receive(first, OK);
    rig.pass(Duration::from_secs(9));
    rig.receive(client, GET);
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.take_actions(), [], "it has a request");
    rig.receive(first, OK);
    assert_eq!(rig.take_actions(), [Action::Close(first)]);
    assert_eq!(count(&rig, "upstream_cx_max_duration_reached"), 1);
}

/// A hundred clients ask an origin that refuses everything, each again as soon as it is answered. How many retries are
/// under way is looked at after every single event.
#[test]
fn a_storm_of_retries_stays_within_its_budget() {
    let budget = RetryBudget { percent: 20.0, min_concurrency: 3 };
    let on = RetryOn { server_error: true, ..RetryOn::default() };
    let setup = Setup {
        thresholds: Thresholds { retries: 0, retry_budget: Some(budget), ..Thresholds::default() },
        retry: Some(RetryPolicy { on, num_retries: 100, ..RetryPolicy::default() }),
        ..Setup::default()
    };
    let mut storm = Storm { rig: Rig::new(&setup), clients: Vec::new(), upstreams: Vec::new(), rng: Rng::new(7) };
    for _ in 0..100 {
        let client = storm.rig.accept();
        storm.clients.push(client);
        storm.rig.receive(client, GET);
    }
    let mut most = 0;
    for _ in 0..5000 {
        storm.connect();
        let before = storm.rig.engine.census();
        let requests = before.cluster_active + before.cluster_pending;
        let allowed = (requests / 5).max(3);
        let retries = count(&storm.rig, "upstream_rq_retry");
        if !storm.refuse_one() {
            storm.rig.pass(Duration::from_millis(5));
            continue;
        }
        if count(&storm.rig, "upstream_rq_retry") > retries {
            let now = storm.rig.engine.census().cluster_retries;
            assert!(now <= allowed, "{now} retries beside {requests} requests");
            most = most.max(now);
        }
    }
    assert!(most > 15, "the budget was used: {most}");
    let (total, retried) = (count(&storm.rig, "upstream_rq_total"), count(&storm.rig, "upstream_rq_retry"));
    assert!(count(&storm.rig, "upstream_rq_retry_overflow") > 1000 && retried * 4 < total, "{retried} of {total}");
}

struct Storm {
    rig: Rig,
    clients: Vec<ConnKey>,
    upstreams: Vec<ConnKey>,
    rng: Rng,
}

impl Storm {
    /// Every connection that is asked for opens.
    fn connect(&mut self) {
        for action in self.rig.take_actions() {
            match action {
                Action::Connect(key, _) => {
                    self.rig.engine.connected(key, address(1, 40_000));
                    self.rig.work();
                    self.upstreams.push(key);
                }
                Action::Close(key) => self.upstreams.retain(|open| *open != key),
                Action::ShutdownWrite(_) => {}
            }
        }
    }

    /// One request that has been sent is refused, and its client, if it is told so, asks again.
    fn refuse_one(&mut self) -> bool {
        let first = self.rng.below(self.upstreams.len() as u64) as usize;
        let mut order = self.upstreams.clone();
        order.rotate_left(first);
        let asked = order.into_iter().find(|key| !self.rig.written(*key).is_empty());
        let Some(asked) = asked else { return false };
        self.rig.receive(asked, UNAVAILABLE);
        for at in 0..self.clients.len() {
            let client = self.clients[at];
            if !self.rig.written(client).is_empty() {
                self.rig.receive(client, GET);
            }
        }
        true
    }
}
