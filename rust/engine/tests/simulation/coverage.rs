//! What the seeds have reached. A simulation that no longer comes to the
//! places where bugs live passes for the wrong reason; so the places are named.

use std::collections::BTreeMap;

use super::ledger::Outcome;
use super::plan::{Kind, Plan};
use super::world::World;

const PLACES: [&str; 35] = [
    "outcome.http.answered",
    "outcome.http.local",
    "outcome.http.broken",
    "outcome.http.aborted",
    "outcome.upgrade.answered",
    "outcome.tcp.answered",
    "outcome.tcp.broken",
    "plan.drain",
    "plan.change",
    "plan.tls",
    "plan.copies",
    "copies.lost",
    "cluster.upstream_cx_http1_total",
    "cluster.upstream_cx_http2_total",
    "cluster.upstream_cx_connect_fail",
    "cluster.upstream_cx_connect_timeout",
    "cluster.upstream_cx_overflow",
    "cluster.upstream_cx_protocol_error",
    "cluster.upstream_rq_pending_overflow",
    "cluster.upstream_rq_timeout",
    "cluster.upstream_rq_per_try_timeout",
    "cluster.upstream_rq_retry",
    "cluster.upstream_rq_retry_success",
    "cluster.upstream_rq_retry_overflow",
    "cluster.upstream_rq_retry_limit_exceeded",
    "http.downstream_cx_http1_total",
    "python_filter.calls",
    "http.downstream_cx_http2_total",
    "http.downstream_cx_idle_timeout",
    "http.downstream_rq_rx_reset",
    "http.downstream_rq_tx_reset",
    "http.downstream_rq_idle_timeout",
    "listener_tls.handshake",
    "cluster_tls.handshake",
    "tcp.downstream_cx_total",
];

#[derive(Default)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    pub fn add(&mut self, plan: &Plan, world: &World) {
        for (name, _, value) in world.stats() {
            let parts: Vec<&str> = name.split('.').collect();
            if let [group, .., what] = parts.as_slice() {
                self.count(&format!("{group}.{what}"), value);
            }
        }
        for entry in world.env.ledger.entries() {
            let kind = match entry.spec.kind {
                Kind::Http => "http",
                Kind::Upgrade => "upgrade",
                Kind::Tcp => "tcp",
            };
            let outcome = match entry.outcome {
                Some(Outcome::Answered(_)) => "answered",
                Some(Outcome::Local(_)) => "local",
                Some(Outcome::Broken(_)) => "broken",
                Some(Outcome::Aborted) => "aborted",
                None => "not begun",
            };
            self.count(&format!("outcome.{kind}.{outcome}"), 1);
        }
        self.count("plan.drain", plan.drains.iter().flatten().count() as u64);
        self.count("plan.change", plan.changes.iter().flatten().count() as u64);
        self.count("plan.tls", u64::from(plan.tls));
        let copies = world.env.ledger.entries().iter().filter(|entry| entry.copied).count() as u64;
        let began = world.env.ledger.entries().iter().filter(|entry| entry.attempts > 0).count() as u64;
        self.count("plan.copies", copies);
        self.count("copies.lost", if plan.mirrors { began.saturating_sub(copies) } else { 0 });
        self.count("plan.faultless", u64::from(plan.faultless));
    }

    fn count(&mut self, what: &str, n: u64) {
        *self.0.entry(what.to_owned()).or_default() += n;
    }

    /// Places that no seed has come to.
    pub fn missing(&self) -> Vec<&'static str> {
        PLACES.into_iter().filter(|place| self.0.get(*place).is_none_or(|n| *n == 0)).collect()
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().filter(|(_, n)| **n > 0).try_for_each(|(what, n)| writeln!(f, "{what} {n}"))
    }
}
