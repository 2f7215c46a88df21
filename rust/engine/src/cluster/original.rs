//! Clusters of type ORIGINAL_DST: the endpoint is the address that the client wanted.
//!
//! A host is made when its address is first asked for. It goes when a whole `cleanup_interval` has passed in which
//! nobody asked for it and it has nothing but idle connections, or earlier to make room: each address has pools of
//! its own, and clients choose the addresses, so their number is bounded (`max_connection_pools`).
//!
//! A destination that is one of the proxy's own capturing listeners is refused: it would come back as a new
//! connection to the same destination, for ever. Envoy leaves that to a filter chain that somebody has to write.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pymesh_http::Headers;
use pymesh_model::cluster::{Discovery, OriginalDst};
use pymesh_model::endpoint::{Endpoint, Health};

use super::balance::Pick;
use super::host::Host;
use super::{ClusterKey, ClusterRuntime, HostKey};
use crate::base::time::Time;
use crate::conn::ConnKey;
use crate::engine::Engine;
use crate::exchange::ExchangeKey;

/// The hosts that a cluster of this type knows now. All of them are listed.
#[derive(Default)]
pub(crate) struct OriginalHosts {
    known: HashMap<SocketAddr, Known>,
    /// When to look for those that are not needed any more; nobody looks while there are none.
    sweep_at: Option<Time>,
}

struct Known {
    host: HostKey,
    /// Since the last sweep.
    was_asked_for: bool,
}

/// Why there is no host for a request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHost {
    /// None is there, or none may be used.
    Unavailable,
    /// A circuit breaker is open.
    Overflow,
}

impl Engine {
    /// The host of a cluster for a connection whose original destination is `wanted`, or for a request on it.
    pub(crate) fn pick_host(
        &mut self,
        key: ClusterKey,
        wanted: Option<SocketAddr>,
        request: Option<ExchangeKey>,
        pick: Pick<'_>,
    ) -> Result<HostKey, NoHost> {
        let cluster = self.clusters.get_mut(key).ok_or(NoHost::Unavailable)?;
        match cluster.config.discovery {
            Discovery::OriginalDst(_) => self.pick_original(key, wanted, request),
            _ => cluster.pick(&pick, &mut self.rng).ok_or(NoHost::Unavailable),
        }
    }

    fn pick_original(
        &mut self,
        key: ClusterKey,
        wanted: Option<SocketAddr>,
        request: Option<ExchangeKey>,
    ) -> Result<HostKey, NoHost> {
        let cluster = self.clusters.get_mut(key).ok_or(NoHost::Unavailable)?;
        let config = cluster.config.clone();
        let Discovery::OriginalDst(settings) = &config.discovery else { return Err(NoHost::Unavailable) };
        let headers = request.and_then(|key| self.exchanges.get(key)).map(|exchange| &exchange.request.headers);
        let named = named_address(settings, headers).and_then(|address| {
            // Anybody may have written it.
            let address = address.ok();
            if address.is_none() {
                cluster.stats.original_dst_host_invalid.inc();
            }
            address
        });
        let mut address = named.or(wanted).ok_or(NoHost::Unavailable)?;
        if let Some(port) = settings.port {
            address.set_port(port);
        }
        if self.listener_addresses.is_capturing(address) {
            cluster.stats.original_dst_loop.inc();
            return Err(NoHost::Unavailable);
        }
        if let Some(known) = cluster.originals.known.get_mut(&address) {
            known.was_asked_for = true;
            return Ok(known.host);
        }
        if cluster.originals.known.len() >= settings.max_addresses {
            let idle = cluster.sweep(true);
            self.retire_upstreams(idle);
        }
        let cluster = self.clusters.get_mut(key).ok_or(NoHost::Unavailable)?;
        if cluster.originals.known.len() >= settings.max_addresses {
            cluster.stats.upstream_cx_pool_overflow.inc();
            return Err(NoHost::Overflow);
        }
        let host = cluster.add_original(address);
        if cluster.originals.sweep_at.is_none() {
            let at = self.now + settings.cleanup_interval;
            cluster.originals.sweep_at = Some(at);
            self.timers.arm_cluster(key, at);
        }
        Ok(host)
    }

    /// `cleanup_interval` may have passed for the cluster at this place.
    pub(crate) fn sweep_original_hosts(&mut self, index: usize) {
        let Some(key) = self.clusters.key_at(index) else { return };
        let Some(cluster) = self.clusters.get_mut(key) else { return };
        let Some(at) = cluster.originals.sweep_at else { return };
        if at > self.now {
            return self.timers.arm_cluster(key, at);
        }
        let idle = cluster.sweep(false);
        cluster.originals.sweep_at = None;
        if let (Discovery::OriginalDst(settings), false) =
            (&cluster.config.discovery, cluster.originals.known.is_empty())
        {
            let next = self.now + settings.cleanup_interval;
            cluster.originals.sweep_at = Some(next);
            self.timers.arm_cluster(key, next);
        }
        self.retire_upstreams(idle);
    }
}

impl ClusterRuntime {
    fn add_original(&mut self, address: SocketAddr) -> HostKey {
        let endpoint = Endpoint {
            address,
            hostname: Arc::default(),
            weight: 1,
            health: Health::Healthy,
            check: Default::default(),
            hash_key: Box::default(),
            transport_match: Vec::new(),
            workload: Default::default(),
        };
        let mut host = Host::new(Arc::new(endpoint));
        host.listed = true;
        if self.config.circuit_breakers.limit_hosts() {
            host.count_with(Some(self.load.of_host(address)));
        }
        let host = self.hosts.insert_with(|_| host);
        self.originals.known.insert(address, Known { host, was_asked_for: true });
        self.count_originals();
        host
    }

    /// Forgets the hosts that nobody uses; with `now`, also those that were asked for a moment ago. Their idle
    /// connections are to be closed.
    fn sweep(&mut self, now: bool) -> Vec<ConnKey> {
        let ClusterRuntime { originals, hosts, .. } = self;
        let mut gone = Vec::new();
        originals.known.retain(|_, known| {
            let was_asked_for = std::mem::take(&mut known.was_asked_for) && !now;
            let is_kept = was_asked_for || hosts.get(known.host).is_some_and(Host::is_in_use);
            if !is_kept {
                gone.push(known.host);
            }
            is_kept
        });
        // A map has no order, and what follows must be the same in every run.
        gone.sort_unstable_by_key(|host| host.index());
        let mut idle = Vec::new();
        for key in gone {
            if let Some(host) = self.hosts.get_mut(key) {
                host.listed = false;
                idle.extend(host.pooled());
            }
            self.drop_host_if_unused(key);
        }
        self.count_originals();
        idle
    }

    /// A changed configuration: whatever is in use goes with its last connection.
    pub(super) fn forget_originals(&mut self) {
        self.originals.known.clear();
    }

    fn count_originals(&self) {
        let count = self.originals.known.len() as u64;
        self.stats.membership_total.set(count);
        self.stats.membership_healthy.set(count);
    }
}

/// What the header says, if the cluster asks for it and it is there.
fn named_address(settings: &OriginalDst, headers: Option<&Headers>) -> Option<Result<SocketAddr, ()>> {
    let header = settings.header.as_ref()?;
    let value = headers?.get(header.as_bytes())?;
    let address = std::str::from_utf8(value).ok().and_then(|text| text.parse::<SocketAddr>().ok());
    Some(address.map(canonical).ok_or(()))
}

/// One address in one form: IPv4 within IPv6 is IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}
