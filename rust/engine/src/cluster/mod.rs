//! The runtime side of clusters: hosts, balancing, connection pools.
//!
//! Configuration says what a cluster is ([`pymesh_model::cluster::Cluster`]);
//! a [`ClusterRuntime`] is what one worker knows of it while it lives. It
//! survives every snapshot that does not change how its octets travel.

pub(crate) mod balance;
pub(crate) mod host;
pub(crate) mod original;

use std::sync::Arc;

use pymesh_model::cluster::{Cluster, TransportSocket, UpstreamProtocol};
use pymesh_model::endpoint::Endpoint;
use pymesh_model::tls::ClientTls;
use pymesh_tls::{client_config, SecretStore, TlsError};

use crate::base::rng::Rng;
use crate::base::slab::{Key, Slab};
use crate::shared::{Load, Resource};
use crate::telemetry::stats::{ClusterStats, Http2Stats};
use balance::Picker;
use host::Host;
use original::OriginalHosts;

pub(crate) type ClusterKey = Key<ClusterRuntime>;
pub(crate) type HostKey = Key<Host>;

/// One worker's view of a cluster.
pub(crate) struct ClusterRuntime {
    pub config: Arc<Cluster>,
    pub stats: Arc<ClusterStats>,
    pub http2: Arc<Http2Stats>,
    pub hosts: Slab<Host>,
    pub picker: Picker,
    /// Hosts of a cluster of type ORIGINAL_DST, by address.
    pub originals: OriginalHosts,
    compiled: Vec<(Arc<ClientTls>, Arc<rustls::ClientConfig>)>,
    /// What this worker, and all of them, have open towards it.
    pub load: Load,
    /// No snapshot names it any more; it goes when its last connection does.
    pub removed: bool,
}

impl ClusterRuntime {
    pub fn new(
        config: Arc<Cluster>,
        stats: Arc<ClusterStats>,
        http2: Arc<Http2Stats>,
        load: Load,
        rng: &mut Rng,
    ) -> Self {
        let mut cluster = ClusterRuntime {
            config,
            stats,
            http2,
            hosts: Slab::default(),
            picker: Picker::default(),
            originals: OriginalHosts::default(),
            compiled: Vec::new(),
            load,
            removed: false,
        };
        cluster.rebuild_hosts(rng);
        cluster
    }

    /// Takes a changed configuration whose wire settings are the same.
    /// Returns the hosts that are no longer listed.
    pub fn update(&mut self, config: Arc<Cluster>, rng: &mut Rng) -> Vec<HostKey> {
        self.config = config;
        // Equal contexts may stand at new addresses.
        self.compiled.clear();
        self.rebuild_hosts(rng)
    }

    fn rebuild_hosts(&mut self, rng: &mut Rng) -> Vec<HostKey> {
        for host in self.hosts.iter_mut() {
            host.listed = false;
        }
        self.forget_originals();
        let config = self.config.clone();
        let mut listed = Vec::new();
        for (locality, endpoint) in config.endpoints.iter() {
            let key = match self.find(endpoint) {
                Some(key) => key,
                None => self.hosts.insert_with(|_| Host::new(endpoint.clone())),
            };
            if let Some(host) = self.hosts.get_mut(key) {
                host.listed = true;
                host.endpoint = endpoint.clone();
                listed.push((key, locality.priority));
            }
        }
        self.picker = Picker::new(config.balance, &listed, &self.hosts, rng);
        self.stats.membership_total.set(listed.len() as u64);
        self.stats.membership_healthy.set(self.picker.healthy() as u64);
        let gone: Vec<HostKey> =
            self.hosts.keys().filter(|key| self.hosts.get(*key).is_some_and(|host| !host.listed)).collect();
        gone
    }

    fn find(&self, endpoint: &Endpoint) -> Option<HostKey> {
        self.hosts.keys().find(|key| {
            self.hosts.get(*key).is_some_and(|host| {
                host.endpoint.address == endpoint.address && host.endpoint.transport_match == endpoint.transport_match
            })
        })
    }

    /// A request has left its connection.
    pub fn end_request(&mut self, host: Option<HostKey>) {
        self.load.take(Resource::Requests);
        self.stats.upstream_rq_active.dec();
        self.stats.upstream_rq_completed.inc();
        if let Some(host) = host.and_then(|host| self.hosts.get_mut(host)) {
            host.active = host.active.saturating_sub(1);
        }
    }

    /// Nothing is left of it, and nothing will come: requests between two
    /// attempts still have theirs.
    pub fn is_over(&self) -> bool {
        self.removed && self.load.is_empty()
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

/// Which of a host's pools serves a request.
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
