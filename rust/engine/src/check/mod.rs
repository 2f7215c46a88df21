//! Active health checks: one worker asks the hosts of a cluster how they are, and tells all others
//! ([`crate::health`]).
//!
//! A question is an exchange that no client has begun ([`crate::exchange`]), to one host. It does not belong to the
//! cluster's traffic: it must not wait behind it for a connection, be refused by its circuit breakers, or be counted.
//! So a cluster whose hosts are checked has a second [`ClusterRuntime`] that no name leads to, with the same transport
//! and the addresses to be checked, and pools, limits and counters of its own.
//!
//! A cluster that is new warms up: whoever publishes snapshots lists it under `warming`, where no name leads to it, until
//! each of its hosts has had a result ([`crate::shared::Commons::is_warm`]). When it is given its name, what is known of
//! the hosts and the checks under way stay.
//!
//! # States of a check
//! waiting until it is `due` → asking, with the time that it may take → waiting. A TCP check may keep its connection,
//! an exchange that has no end, while it waits; that it breaks is a result too.
//!
//! # Invariants
//! * Only the first worker has checks. When it has left a process that drains, the others keep what they know.
//! * Each listed host that may be checked has one check, which ends with its listing or its cluster.
//! * Whatever ends a question, its result is reported once: an exchange that a check does not name any more tells
//!   nobody.

mod grpc;
mod probe;

use std::sync::Arc;
use std::time::Duration;

use pymesh_http::Headers;
use pymesh_model::balance::{Balance, LbPolicy};
use pymesh_model::cluster::{Cluster, Thresholds, UpstreamProtocol};
use pymesh_model::endpoint::{Endpoint, Endpoints, Locality};
use pymesh_model::health_check::{HealthCheck, Probe};

use crate::base::slab::Key;
use crate::base::time::Time;
use crate::cluster::{ClusterKey, ClusterRuntime, Counters, HostKey};
use crate::engine::Engine;
use crate::exchange::{Detached, Exchange, ExchangeKey, Owner};
use crate::health::{ClusterHealth, HostHealth, Verdict};

pub(crate) type CheckKey = Key<Check>;

/// The worker that asks.
pub(crate) const ASKING_WORKER: usize = 0;

/// Octets of a TCP endpoint's answer that are searched.
const TCP_ANSWER: usize = 64 * 1024;

/// The check of one host.
pub(crate) struct Check {
    config: Arc<HealthCheck>,
    health: Arc<ClusterHealth>,
    watched: Arc<HostHealth>,
    /// Whom requests name, if nobody else says.
    authority: Arc<str>,
    /// The cluster that questions go to, and the host there.
    asked: ClusterKey,
    host: HostKey,
    /// The question, or the TCP connection for the next one.
    exchange: Option<ExchangeKey>,
    is_asking: bool,
    /// When to ask, or how long to wait for an answer.
    due: Time,
}

/// The checks of a cluster.
pub(crate) struct Checks {
    config: Arc<HealthCheck>,
    asked: ClusterKey,
    members: Vec<CheckKey>,
}

impl Engine {
    /// A cluster is new, has changed, or has gone: its hosts are checked as it says now.
    pub(crate) fn apply_checks(&mut self, key: ClusterKey) {
        let Some(cluster) = self.clusters.get_mut(key) else { return };
        let is_wanted = self.options.worker == ASKING_WORKER && !cluster.removed;
        let wanted = cluster.config.health_check.clone().filter(|_| is_wanted);
        let current = cluster.checks.take();
        let Some(config) = wanted else {
            if let Some(current) = current {
                self.end_checks(current);
            }
            return;
        };
        let asked_config = Arc::new(asked_cluster(&cluster.config, &config));
        let kept = match current {
            Some(current) if Arc::ptr_eq(&current.config, &config) && self.keeps_asked(&current, &asked_config) => {
                current
            }
            other => {
                if let Some(other) = other {
                    self.end_checks(other);
                }
                Checks { config, asked: self.insert_asked(asked_config), members: Vec::new() }
            }
        };
        self.align_checks(key, kept);
    }

    /// Gives the cluster that is asked its new endpoints, if its connections may stay.
    fn keeps_asked(&mut self, checks: &Checks, config: &Arc<Cluster>) -> bool {
        let Some(asked) = self.clusters.get_mut(checks.asked).filter(|asked| asked.keeps_wire(config)) else {
            return false;
        };
        let ending = asked.update(config.clone(), None, self.now, &mut self.rng);
        self.retire_upstreams(ending);
        true
    }

    fn insert_asked(&mut self, config: Arc<Cluster>) -> ClusterKey {
        // What it has open counts nowhere.
        let (counters, commons) = (Counters::default(), Arc::default());
        let runtime = ClusterRuntime::new(config, counters, &commons, None, self.now, &mut self.rng);
        self.clusters.insert_with(|_| runtime)
    }

    /// One check for each host that may be checked.
    fn align_checks(&mut self, key: ClusterKey, mut checks: Checks) {
        let Some(cluster) = self.clusters.get(key) else { return };
        let Some(health) = cluster.health.clone() else { return };
        let Some(asked) = self.clusters.get(checks.asked) else { return };
        let mut wanted: Vec<(Arc<HostHealth>, HostKey, Arc<str>)> = Vec::new();
        for host in cluster.hosts.iter().filter(|host| host.listed && !host.endpoint.check.is_disabled) {
            let target = asked_endpoint(&host.endpoint, &checks.config);
            if let (Some(watched), Some(at)) = (&host.watched, asked.find(&target)) {
                let hostname = &host.endpoint.check.hostname;
                let authority =
                    if hostname.is_empty() { authority(&cluster.config, &checks.config) } else { hostname.clone() };
                wanted.push((watched.clone(), at, authority));
            }
        }
        let (kept, over): (Vec<CheckKey>, Vec<CheckKey>) = checks.members.drain(..).partition(|key| {
            let check = self.checks.get(*key);
            check.is_some_and(|check| wanted.iter().any(|(watched, ..)| Arc::ptr_eq(watched, &check.watched)))
        });
        for key in over {
            self.end_check(key);
        }
        checks.members = kept;
        for (watched, host, authority) in wanted {
            let is_same = |key: &&CheckKey| self.checks.get(**key).is_some_and(|c| Arc::ptr_eq(&c.watched, &watched));
            if let Some(check) = checks.members.iter().find(is_same).copied().and_then(|key| self.checks.get_mut(key)) {
                (check.host, check.authority) = (host, authority);
                continue;
            }
            let due = self.now + ClusterHealth::first_check(&checks.config.pace, &mut self.rng);
            let (config, health, asked) = (checks.config.clone(), health.clone(), checks.asked);
            let (exchange, is_asking) = (None, false);
            let check = Check { config, health, watched, authority, asked, host, exchange, is_asking, due };
            let key = self.checks.insert_with(|_| check);
            self.timers.arm_check(key, due);
            checks.members.push(key);
        }
        if let Some(cluster) = self.clusters.get_mut(key) {
            cluster.checks = Some(checks);
        }
    }

    fn end_checks(&mut self, checks: Checks) {
        for key in checks.members {
            self.end_check(key);
        }
        let pooled = self.retire_cluster(checks.asked);
        self.retire_upstreams(pooled);
    }

    fn end_check(&mut self, key: CheckKey) {
        if let Some(exchange) = self.checks.remove(key).and_then(|check| check.exchange) {
            self.abandon(exchange, Default::default(), "");
        }
    }

    /// Time has passed for a check, or its TCP endpoint has said something.
    pub(crate) fn on_check_due(&mut self, index: usize) {
        let Some(key) = self.checks.key_at(index) else { return };
        let Some(check) = self.checks.get(key) else { return };
        let is_due = check.due <= self.now;
        if let Some(verdict) = self.tcp_verdict(key) {
            return self.conclude_check(key, verdict);
        }
        match (is_due, check.is_asking) {
            (true, true) => return self.conclude_check(key, Verdict::Late),
            (true, false) => return self.ask_host(key),
            (false, _) => {}
        }
        if let Some(check) = self.checks.get(key) {
            self.timers.arm_check(key, check.due);
        }
    }

    fn ask_host(&mut self, key: CheckKey) {
        let Some(check) = self.checks.get_mut(key) else { return };
        check.health.attempt();
        check.is_asking = true;
        check.due = self.now + check.config.timeout;
        self.timers.arm_check(key, check.due);
        let (config, asked, authority) = (check.config.clone(), check.asked, check.authority.clone());
        if let (Some(exchange), Probe::Tcp(tcp)) = (check.exchange, &config.probe) {
            self.request_data(exchange, &tcp.send);
            return self.make_ready(exchange);
        }
        let (keep, is_raw) = match &config.probe {
            Probe::Http(http) if http.receive.is_empty() => (0, false),
            Probe::Http(http) => (http.response_buffer_size, false),
            Probe::Tcp(_) => (TCP_ANSWER, true),
            Probe::Grpc(_) => (grpc::LARGEST_ANSWER, false),
        };
        let host = check.host;
        let is_tls = self.clusters.get(asked).is_some_and(|asked| asked.is_secure(host));
        let mut detached = Detached::of(Owner::Check(key));
        (detached.host, detached.keep, detached.is_raw) = (Some(host), keep, is_raw);
        let exchange = self.begin_detached(detached, asked, Duration::ZERO, |head| {
            probe::write_head(head, &config, &authority, is_tls);
        });
        if let Some(check) = self.checks.get_mut(key) {
            check.exchange = Some(exchange);
        }
        let body = probe::body(&config.probe);
        if !body.is_empty() {
            self.request_data(exchange, &body);
        }
        if !is_raw {
            self.request_ended(exchange, &mut Headers::new());
        }
    }

    /// The question of a check is over, as an exchange.
    pub(crate) fn on_check_answer(&mut self, key: CheckKey, exchange_key: ExchangeKey, exchange: &Exchange) {
        let Some(check) = self.checks.get_mut(key).filter(|check| check.exchange == Some(exchange_key)) else { return };
        check.exchange = None;
        let verdict = probe::verdict(&check.config.probe, exchange.outcome());
        self.conclude_check(key, verdict);
    }

    /// A TCP endpoint is connected, has said something, or has said its last word. It is looked at when whoever reads
    /// from it is done.
    pub(crate) fn on_check_progress(&mut self, key: CheckKey) {
        self.timers.arm_check(key, self.now);
    }

    /// What a TCP endpoint's answer comes to by now. That it leaves while nobody asks is one, too.
    fn tcp_verdict(&self, key: CheckKey) -> Option<Verdict> {
        let check = self.checks.get(key)?;
        let Probe::Tcp(tcp) = &check.config.probe else { return None };
        let exchange = self.exchanges.get(check.exchange?)?;
        if !exchange.has_response {
            return None;
        }
        let heard = exchange.detached.as_ref().map_or(&[][..], Detached::body);
        if check.is_asking && probe::contains(heard, &tcp.receive) {
            return Some(Verdict::Healthy);
        }
        exchange.response_body.finished.then_some(Verdict::Unreachable)
    }

    fn conclude_check(&mut self, key: CheckKey, verdict: Verdict) {
        let Some(check) = self.checks.get_mut(key) else { return };
        let transition = check.health.conclude(&check.watched, verdict, &check.config, self.now);
        let wait = check.health.next_check(verdict, transition, &check.config.pace, &mut self.rng);
        check.is_asking = false;
        check.due = self.now + wait;
        self.timers.arm_check(key, check.due);
        let (config, asked, host) = (check.config.clone(), check.asked, check.host);
        let stays = match &config.probe {
            Probe::Tcp(tcp) => config.reuse_connection && verdict == Verdict::Healthy && !tcp.receive.is_empty(),
            _ => false,
        };
        let exchange = check.exchange;
        if stays {
            if let Some(detached) =
                exchange.and_then(|key| self.exchanges.get_mut(key)).and_then(|x| x.detached.as_mut())
            {
                detached.forget_body();
            }
            return;
        }
        check.exchange = None;
        if let Some(exchange) = exchange {
            self.abandon(exchange, Default::default(), "");
        }
        // An HTTP/2 connection outlives the stream of a question that nobody has answered.
        if verdict == Verdict::Late && matches!(config.probe, Probe::Http(_)) {
            let host = self.clusters.get(asked).and_then(|cluster| cluster.hosts.get(host));
            let pooled = host.map(|host| host.pooled().collect()).unwrap_or_default();
            self.retire_upstreams(pooled);
        }
    }
}

/// Whom requests name that do not say whom.
fn authority(cluster: &Cluster, check: &HealthCheck) -> Arc<str> {
    let named = match &check.probe {
        Probe::Http(http) => &*http.host,
        Probe::Grpc(grpc) => &*grpc.authority,
        Probe::Tcp(_) => "",
    };
    if named.is_empty() {
        cluster.name.clone()
    } else {
        named.into()
    }
}

/// The cluster that is asked in place of one whose hosts are checked.
fn asked_cluster(cluster: &Cluster, check: &HealthCheck) -> Cluster {
    let mut asked = cluster.clone();
    let endpoints: Vec<Arc<Endpoint>> = cluster
        .endpoints
        .iter()
        .filter(|(_, endpoint)| !endpoint.check.is_disabled)
        .map(|(_, endpoint)| Arc::new(asked_endpoint(endpoint, check)))
        .collect();
    // Each is asked by name: nobody chooses.
    asked.balance = Balance::by(LbPolicy::RoundRobin);
    let localities = vec![Locality { weight: 1, endpoints, ..Locality::default() }];
    asked.endpoints = Arc::new(Endpoints { localities, ..Endpoints::default() });
    asked.circuit_breakers = Thresholds {
        connections: u32::MAX,
        pending_requests: u32::MAX,
        requests: u32::MAX,
        retries: u32::MAX,
        ..Thresholds::default()
    }
    .into();
    asked.outlier_detection = None;
    asked.health_check = None;
    asked.connect_timeout = check.timeout;
    asked.http.protocol = match &check.probe {
        Probe::Http(http) if !http.http2 => UpstreamProtocol::Http1,
        _ => UpstreamProtocol::Http2,
    };
    asked.http.idle_timeout = Duration::ZERO;
    asked.http.requests_per_connection = if check.reuse_connection { 0 } else { 1 };
    asked
}

/// Where an endpoint is asked.
fn asked_endpoint(endpoint: &Endpoint, check: &HealthCheck) -> Endpoint {
    let mut asked = endpoint.clone();
    if let Some(ip) = endpoint.check.address {
        asked.address.set_ip(ip);
    }
    if let Some(port) = endpoint.check.port.or(check.port) {
        asked.address.set_port(port);
    }
    if let Some(criteria) = &check.transport_match {
        asked.transport_match.clone_from(criteria);
    }
    asked
}

#[cfg(test)]
mod tests;
