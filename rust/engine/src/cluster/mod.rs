//! The runtime side of clusters: hosts, balancing, connection pools.
//!
//! Configuration says what a cluster is ([`pymesh_model::cluster::Cluster`]);
//! a [`ClusterRuntime`] is what one worker knows of it while it lives. It
//! survives every snapshot that does not change how its octets travel.

pub(crate) mod balance;
mod breakers;
mod called;
pub(crate) mod host;
mod identity;
pub(crate) mod original;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pymesh_model::cluster::{Cluster, RoutingPriority, TransportSocket, UpstreamProtocol};
use pymesh_model::endpoint::Endpoint;
use pymesh_model::tls::ClientTls;
use pymesh_tls::{client_config, SecretStore, TlsError};

use crate::base::rng::Rng;
use crate::base::slab::{Key, Slab};
use crate::base::time::Time;
use crate::check::Checks;
use crate::conn::ConnKey;
use crate::health::{ClusterHealth, Flags};
use crate::shared::{Commons, Load, Resource};
use crate::telemetry::stats::{ClusterExtAuthzStats, ClusterStats, Http2Stats, Hub, TlsStats};
use balance::{Listed, Pick, Picker};
use host::Host;
use original::OriginalHosts;

pub(crate) type ClusterKey = Key<ClusterRuntime>;
pub(crate) type HostKey = Key<Host>;

/// What one worker counts for a cluster; by default, where nobody looks.
#[derive(Clone, Default)]
pub(crate) struct Counters {
    pub cluster: Arc<ClusterStats>,
    pub http2: Arc<Http2Stats>,
    pub tls: Arc<TlsStats>,
}

impl Counters {
    /// Only what can count is shown.
    pub fn new(config: &Cluster, worker: usize, hub: &Hub) -> Counters {
        let transport = &config.transport;
        let mut sockets = std::iter::once(&transport.default).chain(transport.matches.iter().map(|one| &one.socket));
        let has_tls = sockets.any(|socket| socket.tls.is_some());
        Counters {
            cluster: hub.cluster(worker, &config.name),
            http2: hub.cluster_http2(worker, &config.name),
            tls: if has_tls { hub.cluster_tls(worker, &config.name) } else { Arc::default() },
        }
    }
}

/// One worker's view of a cluster.
pub(crate) struct ClusterRuntime {
    pub config: Arc<Cluster>,
    pub stats: Arc<ClusterStats>,
    pub http2: Arc<Http2Stats>,
    pub tls: Arc<TlsStats>,
    /// Of external authorization, each by the name in front of its counters; most clusters have none.
    pub ext_authz: Vec<(Arc<str>, Arc<ClusterExtAuthzStats>)>,
    pub hosts: Slab<Host>,
    /// The hosts in the configuration.
    listed: Vec<Listed>,
    picker: Picker,
    /// Hosts of a cluster of type ORIGINAL_DST, by address.
    pub originals: OriginalHosts,
    compiled: Vec<(Arc<ClientTls>, Arc<rustls::ClientConfig>)>,
    /// What this worker, and all of them, have open towards it.
    pub load: Load,
    /// How its hosts are, if anybody looks after them.
    pub health: Option<Arc<ClusterHealth>>,
    /// That the picker was made by.
    health_version: u64,
    /// This worker asks them.
    pub checks: Option<Checks>,
    commons: Arc<Commons>,
    /// Requests that filters hold back, and that were to go here.
    pub awaited: usize,
    /// How often an update has ended all its connections. Those from before go with the request that they have.
    pub generation: u32,
    /// No snapshot names it any more; it goes when its last connection does.
    pub removed: bool,
}

impl ClusterRuntime {
    pub fn new(
        config: Arc<Cluster>,
        counters: Counters,
        commons: &Arc<Commons>,
        health: Option<Arc<ClusterHealth>>,
        now: Time,
        rng: &mut Rng,
    ) -> Self {
        let load = Load::new(commons.clusters.get(&config.name, Default::default));
        let mut cluster = ClusterRuntime {
            config,
            stats: counters.cluster,
            http2: counters.http2,
            tls: counters.tls,
            ext_authz: Vec::new(),
            hosts: Slab::default(),
            listed: Vec::new(),
            picker: Picker::default(),
            originals: OriginalHosts::default(),
            compiled: Vec::new(),
            load,
            health,
            health_version: 0,
            checks: None,
            commons: commons.clone(),
            awaited: 0,
            generation: 0,
            removed: false,
        };
        if cluster.rebuild_hosts(now, rng) {
            cluster.stats.membership_change.inc();
        }
        cluster
    }

    /// Takes a changed configuration whose wire settings are the same. Returns the connections that end with it,
    /// each once it has no request.
    pub fn update(
        &mut self,
        config: Arc<Cluster>,
        health: Option<Arc<ClusterHealth>>,
        now: Time,
        rng: &mut Rng,
    ) -> Vec<ConnKey> {
        let old = std::mem::replace(&mut self.config, config);
        self.health = health;
        // Equal contexts may stand at new addresses.
        self.compiled.clear();
        let is_joined = self.rebuild_hosts(now, rng);
        let gone: Vec<HostKey> =
            self.hosts.keys().filter(|key| self.hosts.get(*key).is_some_and(|host| !host.listed)).collect();
        let is_changed = is_joined || !gone.is_empty();
        if is_changed {
            self.stats.membership_change.inc();
        }
        let ends_all = (self.config.balance.close_on_change && is_changed) || self.has_outgrown(&old.circuit_breakers);
        self.generation = self.generation.wrapping_add(ends_all.into());
        let ending = self.hosts.iter().filter(|host| ends_all || !host.listed).flat_map(Host::pooled).collect();
        for key in gone {
            self.drop_host_if_unused(key);
        }
        ending
    }

    /// True if there are hosts that were not there before.
    fn rebuild_hosts(&mut self, now: Time, rng: &mut Rng) -> bool {
        let mut known: HashMap<SocketAddr, Vec<HostKey>> = HashMap::new();
        for key in self.hosts.keys() {
            if let Some(host) = self.hosts.get(key) {
                known.entry(host.endpoint.address).or_default().push(key);
            }
        }
        for host in self.hosts.iter_mut() {
            host.listed = false;
        }
        self.forget_originals();
        self.listed.clear();
        let mut is_joined = false;
        let config = self.config.clone();
        let watched = self.health.as_ref().map(|health| health.enlist(&config, now));
        let mut watched = watched.unwrap_or_default().into_iter();
        let limits_hosts = config.circuit_breakers.limit_hosts();
        for (index, locality) in config.endpoints.localities.iter().enumerate() {
            for endpoint in &locality.endpoints {
                let at_address = known.entry(endpoint.address).or_default();
                let is_same = |key: &&HostKey| {
                    self.hosts.get(**key).is_some_and(|host| host.endpoint.transport_match == endpoint.transport_match)
                };
                let key = at_address.iter().find(is_same).copied().unwrap_or_else(|| {
                    is_joined = true;
                    let key = self.hosts.insert_with(|_| Host::new(endpoint.clone()));
                    at_address.push(key);
                    key
                });
                // An endpoint that is listed twice is where it is listed first.
                if let Some(host) = self.hosts.get_mut(key).filter(|host| !host.listed) {
                    host.listed = true;
                    host.endpoint = endpoint.clone();
                    host.watched = watched.next();
                    host.flags = Flags::default();
                    host.count_with(limits_hosts.then(|| self.load.of_host(endpoint.address)));
                    self.listed.push((key, index));
                }
            }
        }
        self.refresh_picker(now, rng);
        is_joined
    }

    /// Shares load anew after hosts or their health have changed.
    pub fn refresh_picker(&mut self, now: Time, rng: &mut Rng) {
        self.health_version = self.health.as_ref().map_or(0, |health| health.version());
        for host in self.hosts.iter_mut() {
            host.refresh_health(now);
        }
        self.picker = Picker::new(&self.config, &self.listed, &self.hosts, &self.commons.tables, now, rng);
        let membership = self.picker.membership();
        self.stats.membership_total.set(membership.total as u64);
        self.stats.membership_healthy.set(membership.healthy as u64);
        self.stats.membership_degraded.set(membership.degraded as u64);
        self.stats.membership_excluded.set(membership.excluded as u64);
    }

    /// True if the flags of a host have changed since the picker was made.
    pub fn has_changed_health(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.version() != self.health_version)
    }

    /// The listed host of an endpoint.
    pub fn find(&self, endpoint: &Endpoint) -> Option<HostKey> {
        let is_it = |host: &Host| {
            host.endpoint.address == endpoint.address && host.endpoint.transport_match == endpoint.transport_match
        };
        self.listed.iter().map(|(key, _)| *key).find(|key| self.hosts.get(*key).is_some_and(is_it))
    }

    /// The balancer's choice.
    pub fn pick(&mut self, pick: &Pick<'_>, rng: &mut Rng) -> Option<HostKey> {
        self.picker.pick(pick, &self.hosts, &self.stats, rng)
    }

    /// A request has left its connection.
    pub fn end_request(&mut self, host: Option<HostKey>, priority: RoutingPriority) {
        self.load.take(priority, Resource::Requests);
        self.stats.upstream_rq_active.dec();
        self.stats.upstream_rq_completed.inc();
        if let Some(host) = host.and_then(|host| self.hosts.get_mut(host)) {
            host.active = host.active.saturating_sub(1);
        }
    }

    /// Nothing is left of it, and nothing will come: requests between two
    /// attempts still have theirs.
    pub fn is_over(&self) -> bool {
        self.removed && self.load.is_empty() && self.awaited == 0
    }

    /// Forgets a host that is neither listed nor in use.
    pub fn drop_host_if_unused(&mut self, key: HostKey) {
        let unused = self
            .hosts
            .get(key)
            .is_some_and(|host| !host.listed && host.connections == 0 && host.active == 0 && !host.has_waiting());
        if unused {
            self.hosts.remove(key);
        }
    }

    /// How connections to this endpoint carry their octets.
    pub fn socket_for(&self, endpoint: &Endpoint) -> &TransportSocket {
        let transport = &self.config.transport;
        let matched = transport
            .matches
            .iter()
            .find(|candidate| candidate.criteria.iter().all(|wanted| endpoint.transport_match.contains(wanted)));
        matched.map_or(&transport.default, |found| &found.socket)
    }

    /// Octets to this host are encrypted.
    pub fn is_secure(&self, host: HostKey) -> bool {
        self.hosts.get(host).is_some_and(|host| self.socket_for(&host.endpoint).tls.is_some())
    }

    /// The rustls configuration of a TLS context, made once.
    pub fn compiled_tls(
        &mut self,
        tls: &Arc<ClientTls>,
        secrets: &Arc<SecretStore>,
    ) -> Result<Arc<rustls::ClientConfig>, TlsError> {
        if let Some((_, config)) = self.compiled.iter().find(|(known, _)| Arc::ptr_eq(known, tls)) {
            return Ok(config.clone());
        }
        let config = client_config(tls, secrets)?;
        self.compiled.push((tls.clone(), config.clone()));
        Ok(config)
    }

    /// True if `new` differs only in what a live connection does not feel.
    pub fn keeps_wire(&self, new: &Cluster) -> bool {
        let (old, new_http) = (&self.config.http, &new.http);
        let transport = &self.config.transport;
        old == new_http
            && self.config.bind == new.bind
            && transport.default == new.transport.default
            && transport.matches.len() == new.transport.matches.len()
            && transport
                .matches
                .iter()
                .zip(&new.transport.matches)
                .all(|(a, b)| a.criteria == b.criteria && a.socket == b.socket)
    }
}

/// Names one of a host's pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolKey {
    pub kind: PoolKind,
    pub priority: RoutingPriority,
}

/// What is spoken on the connections of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolKind {
    /// HTTP/1, or whatever ALPN decides.
    Negotiated,
    /// HTTP/2 by configuration.
    Http2,
    /// None is spoken: a tunnel ends at the proxy. It has a queue, and connections for one tunnel each.
    Tcp,
}

impl PoolKind {
    pub fn choose(protocol: UpstreamProtocol, downstream_is_http2: bool) -> PoolKind {
        match protocol {
            UpstreamProtocol::Http1 | UpstreamProtocol::Auto => PoolKind::Negotiated,
            UpstreamProtocol::Http2 => PoolKind::Http2,
            UpstreamProtocol::Downstream if downstream_is_http2 => PoolKind::Http2,
            UpstreamProtocol::Downstream => PoolKind::Negotiated,
        }
    }
}
