//! TCP proxying: octets are copied both ways until both halves are closed.
//!
//! A [`Relay`] ties two connections together. Each end appends what it reads
//! to the other's output and stops reading while that is full. A closed half
//! is passed on once everything before it was sent.

use std::net::SocketAddr;
use std::sync::Arc;

use pymesh_model::cluster::{Cluster, RoutingPriority};
use pymesh_model::endpoint::Endpoint;

use super::{Conn, ConnKey, Protocol};
use crate::base::slab::Key;
use crate::base::time::Time;
use crate::cluster::balance::Pick;
use crate::cluster::original::NoHost;
use crate::cluster::{ClusterKey, HostKey, PoolKey, PoolKind};
use crate::engine::Engine;
use crate::exchange::Failure;
use crate::listener::TcpRuntime;
use crate::route::hash_policy::source_ip;
use crate::security::connection::Refusal;
use crate::shared::Resource;
use crate::telemetry::stats::TcpStats;
use crate::telemetry::{Connection, Counting, Facts, Flags, UpstreamFacts};

pub(crate) type RelayKey = Key<Relay>;

/// Connections of relays are in no pool, but count as those of this one.
const POOL: PoolKey = PoolKey { kind: PoolKind::Negotiated, priority: RoutingPriority::Default };

/// One proxied TCP connection.
pub(crate) struct Relay {
    /// The TCP proxy that made it.
    pub tcp: Arc<TcpRuntime>,
    /// It closes then, whatever it does.
    pub expires: Time,
    pub down: ConnKey,
    /// The client.
    pub facts: Arc<Facts>,
    /// For original-destination clusters.
    pub original_dst: Option<SocketAddr>,
    pub up_remote: Option<SocketAddr>,
    pub up_local: Option<SocketAddr>,
    pub up_facts: Option<Arc<UpstreamFacts>>,
    /// Set once an endpoint was chosen.
    pub up: Option<ConnKey>,
    pub up_open: bool,
    pub cluster: Option<ClusterKey>,
    pub host: Option<(HostKey, Arc<Endpoint>)>,
    /// What counts it, once it is open.
    pub counting: Option<Counting>,
    pub attempts: u32,
    pub flags: Flags,
    pub failure: Option<String>,
    /// Why it was refused.
    pub refusal: Option<Refusal>,
    pub started: Time,
    pub last_progress: Time,
    pub received: u64,
    pub sent: u64,
}

/// A connection's part in a relay.
#[derive(Clone, Copy)]
pub(crate) struct TcpEnd {
    pub relay: RelayKey,
    /// Our half was closed, or will be when the output is out.
    pub write_ended: bool,
    pub write_shut: bool,
}

impl TcpEnd {
    fn of(relay: RelayKey) -> Protocol {
        Protocol::Tcp(TcpEnd { relay, write_ended: false, write_shut: false })
    }
}

impl Engine {
    /// A TCP chain was chosen for a downstream connection.
    pub(super) fn start_tcp(&mut self, conn: &mut Conn, tcp: &Arc<TcpRuntime>, facts: Facts, refusal: Option<Refusal>) {
        tcp.stats.downstream_cx_total.inc();
        tcp.stats.downstream_cx_active.inc();
        let facts = Arc::new(facts);
        let is_refused = refusal.is_some();
        let expires = self.now.after_limit(tcp.config.max_connection_duration);
        let relay = self.relays.insert_with(|_| Relay {
            tcp: tcp.clone(),
            expires,
            down: conn.key,
            facts: facts.clone(),
            original_dst: conn.original_dst(),
            up_remote: None,
            up_local: None,
            up_facts: None,
            up: None,
            up_open: false,
            cluster: None,
            host: None,
            counting: None,
            attempts: 0,
            flags: match refusal {
                Some(Refusal::Service(_)) => Flags::UNAUTHORIZED_EXTERNAL,
                _ => Flags::NONE,
            },
            failure: None,
            refusal,
            started: self.now,
            last_progress: self.now,
            received: 0,
            sent: 0,
        });
        conn.protocol = TcpEnd::of(relay);
        if let Some(down) = conn.downstream_mut() {
            down.facts = Some(facts);
        }
        if is_refused {
            return self.close_now(conn);
        }
        self.set_deadline(conn, self.now.after_limit(tcp.config.idle_timeout).min(expires));
        self.connect_relay(relay);
        if self.relays.get(relay).is_some_and(|relay| relay.up.is_none()) {
            self.close_now(conn);
        }
    }

    /// Chooses an endpoint and starts a connection to it. On failure `up` stays empty.
    fn connect_relay(&mut self, key: RelayKey) {
        let Some(relay) = self.relays.get_mut(key) else { return };
        let tcp = relay.tcp.clone();
        let total = tcp.config.clusters.iter().map(|c| u64::from(c.weight)).sum();
        let mut point = self.rng.below(total);
        let chosen = tcp.config.clusters.iter().find(|cluster| {
            let weight = u64::from(cluster.weight);
            let found = point < weight;
            point = point.saturating_sub(weight);
            found
        });
        let cluster = chosen.and_then(|chosen| self.cluster_named(&chosen.name));
        let Some(relay) = self.relays.get_mut(key) else { return };
        relay.cluster = cluster;
        let Some(cluster_key) = cluster else {
            relay.flags.insert(Flags::NO_CLUSTER);
            tcp.stats.downstream_cx_no_route.inc();
            return;
        };
        let wanted = relay.original_dst;
        let hash = tcp.config.hash_source_ip.then(|| source_ip(relay.facts.remote.ip(), &mut self.text));
        let pick = Pick { now: self.now, hash, ..Pick::default() };
        // As in Envoy before an endpoint is chosen, whichever it would be.
        let cluster = self.clusters.get(cluster_key);
        let up = match cluster.is_some_and(|cluster| cluster.has_room(POOL.priority, Resource::Connections)) {
            true => self
                .pick_host(cluster_key, wanted, None, pick)
                .and_then(|host| self.open_upstream(cluster_key, host, POOL, Some(key)).ok_or(NoHost::Overflow)),
            false => {
                cluster.inspect(|cluster| cluster.stats.upstream_cx_overflow.inc());
                Err(NoHost::Overflow)
            }
        };
        let host = up.ok().and_then(|up| self.conns.get(up)?.upstream().map(|up| up.host)).and_then(|host| {
            let endpoint = self.clusters.get(cluster_key)?.hosts.get(host)?.endpoint.clone();
            Some((host, endpoint))
        });
        let Some(relay) = self.relays.get_mut(key) else { return };
        relay.host = host;
        match up {
            Ok(up) => {
                relay.attempts += 1;
                relay.up = Some(up);
                relay.up_remote = self.conns.get(up).map(|conn| conn.remote);
            }
            Err(NoHost::Overflow) => relay.flags.insert(Flags::UPSTREAM_OVERFLOW),
            Err(NoHost::Unavailable) => relay.flags.insert(Flags::NO_HEALTHY_UPSTREAM),
        }
    }

    /// The connection to the endpoint is there (TLS included).
    pub(crate) fn on_relay_open(&mut self, conn: &mut Conn, key: RelayKey) {
        conn.protocol = TcpEnd::of(key);
        let Some(relay) = self.relays.get_mut(key) else { return self.close_now(conn) };
        relay.up_open = true;
        relay.up_local = Some(conn.local);
        relay.up_facts = conn.upstream().and_then(|up| up.facts.clone());
        let (down, idle, expires) = (relay.down, relay.tcp.config.idle_timeout, relay.expires);
        self.set_deadline(conn, self.now.after_limit(idle).min(expires));
        self.count_relay(key);
        self.rescan_key(down);
    }

    /// From now on it is counted. Its labels are those that it has now.
    fn count_relay(&mut self, key: RelayKey) {
        let Some(relay) = self.relays.get(key) else { return };
        let cluster = relay.cluster.and_then(|key| self.clusters.get(key));
        let host = relay.host.as_ref().filter(|_| relay.up_open).map(|(host, _)| *host);
        let principals = cluster.map(|cluster| cluster.principals(host, &self.secrets)).unwrap_or_default();
        let record = relay.record(cluster.map(|cluster| &*cluster.config), self.now);
        let stats = relay.tcp.config.stats.as_deref();
        let counting = self.telemetry.counting(&record, relay.tcp.direction, stats, principals);
        counting.opened();
        if let Some(relay) = self.relays.get_mut(key) {
            relay.counting = Some(counting);
        }
    }

    /// The connection to the endpoint could not be made: another, or the end.
    pub(crate) fn on_relay_connect_failed(&mut self, key: RelayKey, _failure: Failure) {
        let failure = self.last_transport_failure.take();
        let Some(relay) = self.relays.get_mut(key) else { return };
        relay.up = None;
        let down = relay.down;
        relay.failure = failure;
        relay.flags.insert(Flags::UPSTREAM_CONNECTION_FAILURE);
        if relay.attempts < relay.tcp.config.max_connect_attempts {
            self.connect_relay(key);
        } else {
            relay.flags.insert(Flags::UPSTREAM_RETRY_LIMIT);
            if let Some(cluster) = relay.cluster.and_then(|key| self.clusters.get(key)) {
                cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
            }
        }
        if self.relays.get(key).is_some_and(|relay| relay.up.is_none()) {
            self.close_key(down);
        }
    }

    /// Passes octets on; says how many the other end took.
    pub(super) fn relay(&mut self, conn: &mut Conn, bytes: &[u8]) -> usize {
        let Protocol::Tcp(end) = &conn.protocol else { return bytes.len() };
        let Some(relay) = self.relays.get_mut(end.relay) else { return bytes.len() };
        let from_client = relay.down == conn.key;
        let other = if from_client { relay.up.filter(|_| relay.up_open) } else { Some(relay.down) };
        let Some(other) = other.and_then(|key| self.conns.get_mut(key)) else {
            conn.paused = !bytes.is_empty();
            return 0;
        };
        if other.is_full() {
            conn.paused = true;
            return 0;
        }
        relay.last_progress = self.now;
        let count = bytes.len() as u64;
        match from_client {
            true => relay.received += count,
            false => relay.sent += count,
        }
        let TcpStats { downstream_cx_rx_bytes_total, downstream_cx_tx_bytes_total, .. } = &*relay.tcp.stats;
        if from_client { downstream_cx_rx_bytes_total } else { downstream_cx_tx_bytes_total }.add(count);
        if let Some(counting) = &relay.counting {
            if from_client {
                counting.received(count);
            } else {
                counting.sent(count);
            }
        }
        other.output.extend(bytes);
        if !other.is_dirty {
            other.is_dirty = true;
            self.dirty.push(other.key);
        }
        bytes.len()
    }

    /// This end will say no more: the other half closes behind its last octet.
    pub(super) fn relay_end(&mut self, conn: &mut Conn) {
        if !conn.input.is_empty() {
            return;
        }
        let Protocol::Tcp(end) = &conn.protocol else { return };
        let Some(relay) = self.relays.get(end.relay) else { return self.close_now(conn) };
        let other = if relay.down == conn.key { relay.up } else { Some(relay.down) };
        let Some(other) = other.and_then(|key| self.conns.get_mut(key)) else {
            return self.close_now(conn);
        };
        if let Protocol::Tcp(other_end) = &mut other.protocol {
            other_end.write_ended = true;
        }
        if !other.is_dirty {
            other.is_dirty = true;
            self.dirty.push(other.key);
        }
        if end.write_shut && conn.unsent() == 0 {
            self.close_after_flush(conn);
        }
    }

    /// All output of an end was written.
    pub(crate) fn on_relay_flushed(&mut self, conn: &mut Conn) {
        let Protocol::Tcp(end) = &mut conn.protocol else { return };
        let relay = end.relay;
        let shut_now = end.write_ended && !end.write_shut;
        end.write_shut |= shut_now;
        // What it said last may still wait for room at the other end.
        if end.write_shut && conn.peer_closed && conn.input.is_empty() {
            return self.close_after_flush(conn);
        }
        if shut_now {
            match conn.tls.as_mut() {
                Some(tls) => {
                    tls.close();
                    self.mark_dirty(conn);
                }
                None => self.shut_write(conn),
            }
        }
        // There is room: the other end may read on.
        let Some(relay) = self.relays.get(relay) else { return };
        let other = if relay.down == conn.key { relay.up } else { Some(relay.down) };
        if let Some(other) = other {
            // Its end was passed on already, unless something before it still waits.
            if self.conns.get(other).is_some_and(|other| other.paused || !other.input.is_empty()) {
                self.rescan_key(other);
            }
        }
    }

    /// It may have been idle for too long, or be too old.
    pub(super) fn on_relay_deadline(&mut self, conn: &mut Conn) {
        let Protocol::Tcp(end) = &conn.protocol else { return };
        let Some(relay) = self.relays.get_mut(end.relay) else { return self.close_now(conn) };
        let deadline = relay.last_progress.after_limit(relay.tcp.config.idle_timeout).min(relay.expires);
        if deadline > self.now {
            return self.set_deadline(conn, deadline);
        }
        let TcpStats { idle_timeout, max_downstream_connection_duration, .. } = &*relay.tcp.stats;
        if relay.expires <= self.now {
            max_downstream_connection_duration.inc();
            relay.flags.insert(Flags::DURATION_TIMEOUT);
        } else {
            idle_timeout.inc();
        }
        self.close_now(conn);
    }

    /// One end is gone: the other follows once its output is out.
    pub(super) fn forget_relay_end(&mut self, key: RelayKey, gone: ConnKey) {
        if self.relays.get(key).is_some_and(|relay| relay.counting.is_none()) {
            self.count_relay(key);
        }
        let Some(relay) = self.relays.remove(key) else { return };
        relay.counting.iter().for_each(Counting::closed);
        let other = if relay.down == gone { relay.up } else { Some(relay.down) };
        relay.tcp.stats.downstream_cx_active.dec();
        self.record_connection(&relay);
        let Some(mut other) = other.and_then(|key| self.conns.lend(key)) else { return };
        let other_key = other.key;
        match other.protocol {
            // Nothing of the relay is in it yet, and it must not come to life any more.
            Protocol::Opening => self.close_now(&mut other),
            _ => self.close_after_flush(&mut other),
        }
        self.conns.give_back(other_key, other);
    }

    fn record_connection(&mut self, relay: &Relay) {
        let cluster = relay.cluster.and_then(|key| self.clusters.get(key));
        let record = relay.record(cluster.map(|cluster| &*cluster.config), self.now);
        self.telemetry.connection(&record, &mut self.rng);
    }
}

impl Relay {
    /// What logs and metrics say of it.
    fn record<'a>(&'a self, cluster: Option<&'a Cluster>, now: Time) -> Connection<'a> {
        Connection {
            logs: &self.tcp.config.access_logs,
            facts: &self.facts,
            flags: self.flags,
            upstream: self.up_remote,
            upstream_local: self.up_local,
            upstream_facts: self.up_facts.as_deref(),
            event: "TcpConnectionEnd",
            attempts: self.attempts,
            cluster,
            endpoint: self.host.as_ref().map(|(_, endpoint)| &**endpoint),
            received: self.received,
            sent: self.sent,
            started: self.started,
            ended: now,
            downstream_failure: None,
            transport_failure: self.failure.as_deref(),
            details: match self.refusal {
                Some(Refusal::Service(details)) => details,
                _ => "",
            },
            termination: match &self.refusal {
                Some(Refusal::Policy(policy)) => Some(policy),
                _ => None,
            },
        }
    }
}
