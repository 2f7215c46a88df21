//! One endpoint and its connections.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use pymesh_model::cluster::RoutingPriority;
use pymesh_model::endpoint::{Endpoint, Health};

use super::{PoolKey, PoolKind};
use crate::base::time::Time;
use crate::conn::ConnKey;
use crate::exchange::ExchangeKey;
use crate::health::{Flags, HostHealth};

/// An endpoint with what this worker has open to it.
pub(crate) struct Host {
    pub endpoint: Arc<Endpoint>,
    /// Who its last connection has found, by the URI of its certificate.
    pub principal: Option<Arc<str>>,
    /// It is in the cluster's configuration now.
    pub listed: bool,
    /// What the process knows of it, if somebody looks after the cluster's hosts.
    pub watched: Option<Arc<HostHealth>>,
    /// What that was when the picker was made.
    pub flags: Flags,
    /// When it was first healthy, or passed its health check again: what a slow start begins with.
    pub healthy_since: Option<Time>,
    /// Requests on a connection or waiting for one.
    pub active: u32,
    /// Connections, open or being opened.
    pub connections: u32,
    /// The same of all workers, where endpoints have a circuit breaker of their own.
    connections_of_all: Option<Arc<AtomicU32>>,
    pools: Pools,
    /// Few have requests of high priority.
    high: Option<Box<Pools>>,
}

/// One pool of each kind.
type Pools = [Pool; 3];

impl Host {
    /// A host that is not listed yet.
    pub fn new(endpoint: Arc<Endpoint>) -> Self {
        Host {
            endpoint,
            principal: None,
            listed: false,
            watched: None,
            flags: Flags::default(),
            healthy_since: None,
            active: 0,
            connections: 0,
            connections_of_all: None,
            pools: Pools::default(),
            high: None,
        }
    }

    /// The worst that anybody says: the control plane, active health checks, outlier detection.
    pub fn health(&self) -> Health {
        self.all_flags().health()
    }

    /// The others' health is judged as if it were not there.
    pub fn is_excluded(&self) -> bool {
        self.all_flags().is_excluded()
    }

    fn all_flags(&self) -> Flags {
        Flags::of_eds(self.endpoint.health).with(self.flags)
    }

    /// Looks at what the process knows of it.
    pub fn refresh_health(&mut self, now: Time) {
        let before = self.flags;
        if let Some(watched) = &self.watched {
            self.flags = watched.flags();
        }
        if before.has(Flags::FAILED_ACTIVE_HC) && !self.flags.has(Flags::FAILED_ACTIVE_HC) {
            self.healthy_since = None;
        }
        if self.health() == Health::Healthy {
            self.healthy_since.get_or_insert(now);
        }
    }

    pub fn pool(&mut self, key: PoolKey) -> &mut Pool {
        let pools = match key.priority {
            RoutingPriority::Default => &mut self.pools,
            RoutingPriority::High => self.high.get_or_insert_with(Box::default),
        };
        let [negotiated, http2, tcp] = pools;
        match key.kind {
            PoolKind::Negotiated => negotiated,
            PoolKind::Http2 => http2,
            PoolKind::Tcp => tcp,
        }
    }

    fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter().chain(self.high.iter().flat_map(|high| high.iter()))
    }

    pub fn has_waiting(&self) -> bool {
        self.pools().any(|pool| !pool.waiting.is_empty())
    }

    /// It has requests, or connections that are not idle.
    pub fn is_in_use(&self) -> bool {
        self.active > 0 || self.has_waiting() || self.connections as usize > self.pooled().count()
    }

    pub fn waiting(&self) -> usize {
        self.pools().map(|pool| pool.waiting.len()).sum()
    }

    /// Connections without requests, or that may take more: what is closed
    /// when the host goes away.
    pub fn pooled(&self) -> impl Iterator<Item = ConnKey> + '_ {
        self.pools().flat_map(|pool| pool.idle.iter().chain(&pool.shared).copied())
    }

    /// A connection to it is begun.
    pub fn add_connection(&mut self) {
        self.connections += 1;
        if let Some(all) = &self.connections_of_all {
            all.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection to it is closed.
    pub fn take_connection(&mut self) {
        if self.connections > 0 {
            self.connections -= 1;
            if let Some(all) = &self.connections_of_all {
                all.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// The connections of all workers, where they are counted.
    pub fn connections_of_all(&self) -> u32 {
        self.connections_of_all.as_ref().map_or(0, |all| all.load(Ordering::Relaxed))
    }

    /// Counts its connections together with those of other workers from now on, or no more.
    pub fn count_with(&mut self, all: Option<Arc<AtomicU32>>) {
        if let Some(before) = std::mem::replace(&mut self.connections_of_all, all) {
            before.fetch_sub(self.connections, Ordering::Relaxed);
        }
        if let Some(all) = &self.connections_of_all {
            all.fetch_add(self.connections, Ordering::Relaxed);
        }
    }
}

/// Connections of one kind to one host.
///
/// A connection stands in `idle` (HTTP/1 between requests) or in `shared`
/// (HTTP/2), or in neither while it is being opened, is busy with HTTP/1, or
/// takes no more requests. An exchange stands in `waiting` at most once.
#[derive(Default)]
pub(crate) struct Pool {
    /// Last used at the end: the warmest connection goes out first.
    pub idle: Vec<ConnKey>,
    pub shared: Vec<ConnKey>,
    /// Connections, whatever their state.
    pub connections: u32,
    pub connecting: u32,
    pub waiting: VecDeque<ExchangeKey>,
}

impl Pool {
    pub fn forget(&mut self, conn: ConnKey) {
        self.idle.retain(|key| *key != conn);
        self.shared.retain(|key| *key != conn);
    }

    pub fn stop_waiting(&mut self, exchange: ExchangeKey) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|key| *key != exchange);
        self.waiting.len() != before
    }
}
