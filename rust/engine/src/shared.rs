//! What the workers of one process know together.
//!
//! A worker shares nothing on a request's path but numbers. What belongs to the process and not to a worker (how much of
//! a circuit breaker is used, which endpoints are ejected, how many tokens a rate limit has left) is a value of atomics
//! with a name, kept by a [`Registry`]. A worker asks for it by name when a snapshot is applied, and then holds it.
//!
//! Invariants:
//! * equal names give the same value for as long as any worker holds it; after that it is forgotten,
//! * what a worker has added to a number, it takes back, at the latest when it lets go of the value,
//! * numbers are read without order: one request more than a threshold for a moment does no harm.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pymesh_model::cluster::{Cluster, RoutingPriority};
use pymesh_model::filter::RemoteJwks;

use crate::cluster::balance::{HashTable, Plan};
use crate::health::{ClusterHealth, Version};
use crate::http_filter::Buckets;
use crate::jwks::RemoteKeys;

/// One for a process; see the [module](self).
#[derive(Debug, Default)]
pub struct Commons {
    /// What is open towards each cluster.
    pub(crate) clusters: Registry<ClusterLoad>,
    /// Requests that suffer an injected fault, by the statistics prefix of their connection manager.
    pub(crate) faults: Registry<AtomicU32>,
    /// Tables of consistent hashing, by all that they are made of: they do not change, and are large.
    pub(crate) tables: Registry<HashTable, Plan>,
    /// How its hosts are, where anybody looks after them.
    pub(crate) health: Registry<ClusterHealth>,
    /// Of all of `health`.
    pub(crate) health_version: Arc<Version>,
    /// Keys of tokens that are fetched, by where they are.
    pub(crate) keys: Registry<RemoteKeys, Arc<RemoteJwks>>,
    /// Buckets of rate limits, by the identity of their configuration, which they hold.
    pub(crate) limits: Registry<Buckets, usize>,
}

impl Commons {
    /// How the hosts of a cluster are; `None` if nobody looks after them.
    pub fn health(&self, cluster: &str) -> Option<Arc<ClusterHealth>> {
        self.health.find(cluster)
    }

    /// Whether each host of a cluster that warms up has been asked how it is, whatever it has said.
    pub fn is_warm(&self, cluster: &Arc<Cluster>) -> bool {
        self.health(&cluster.name).is_some_and(|health| health.is_warm(cluster))
    }
}

/// Values by name, for as long as somebody holds them.
#[derive(Debug)]
pub(crate) struct Registry<T, N = Arc<str>>(Mutex<HashMap<N, Weak<T>>>);

impl<T, N> Default for Registry<T, N> {
    fn default() -> Self {
        Registry(Mutex::default())
    }
}

impl<T, N: Clone + Eq + Hash> Registry<T, N> {
    /// The value of this name; `make` gives the first, while everybody else waits.
    pub fn get(&self, name: &N, make: impl FnOnce() -> T) -> Arc<T> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.get(name).and_then(Weak::upgrade) {
            return value;
        }
        known.retain(|_, value| value.strong_count() > 0);
        let value = Arc::new(make());
        known.insert(name.clone(), Arc::downgrade(&value));
        value
    }

    /// The value of this name, if anybody holds one.
    pub fn find<Q: Eq + Hash + ?Sized>(&self, name: &Q) -> Option<Arc<T>>
    where
        N: Borrow<Q>,
    {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).and_then(Weak::upgrade)
    }
}

/// What circuit breakers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Open or being opened.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests on a connection.
    Requests,
    /// Requests whose retries are under way.
    Retries,
}

const RESOURCES: usize = 4;
const PRIORITIES: usize = RoutingPriority::ALL.len();

/// What all workers have open towards a cluster, for each priority.
#[derive(Debug, Default)]
pub(crate) struct ClusterLoad {
    counts: [[AtomicU32; RESOURCES]; PRIORITIES],
    /// Connections to each endpoint, where they are limited.
    hosts: Registry<AtomicU32>,
}

/// One worker's part of a [`ClusterLoad`].
#[derive(Debug)]
pub(crate) struct Load {
    own: [[u32; RESOURCES]; PRIORITIES],
    all: Arc<ClusterLoad>,
}

// An index made of `Resource` or `RoutingPriority` is always within.
#[allow(clippy::indexing_slicing)]
impl Load {
    pub fn new(all: Arc<ClusterLoad>) -> Load {
        Load { own: [[0; RESOURCES]; PRIORITIES], all }
    }

    /// This worker's, at every priority.
    pub fn own(&self, resource: Resource) -> u32 {
        self.own.iter().map(|own| own[resource as usize]).sum()
    }

    /// All workers'.
    pub fn all(&self, priority: RoutingPriority, resource: Resource) -> u32 {
        self.all.count(priority, resource)
    }

    /// Nothing is open by this worker.
    pub fn is_empty(&self) -> bool {
        self.own == [[0; RESOURCES]; PRIORITIES]
    }

    pub fn add(&mut self, priority: RoutingPriority, resource: Resource) {
        self.own[priority as usize][resource as usize] += 1;
        self.all.counts[priority as usize][resource as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn take(&mut self, priority: RoutingPriority, resource: Resource) {
        let own = &mut self.own[priority as usize][resource as usize];
        if *own > 0 {
            *own -= 1;
            self.all.counts[priority as usize][resource as usize].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The connections that all workers have to one endpoint.
    pub fn of_host(&self, address: SocketAddr) -> Arc<AtomicU32> {
        self.all.hosts.get(&address.to_string().into(), AtomicU32::default)
    }
}

#[allow(clippy::indexing_slicing)]
impl ClusterLoad {
    fn count(&self, priority: RoutingPriority, resource: Resource) -> u32 {
        self.counts[priority as usize][resource as usize].load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for (own, all) in self.own.iter().flatten().zip(self.all.counts.iter().flatten()) {
            all.fetch_sub(*own, Ordering::Relaxed);
        }
    }
}

impl Commons {
    /// The gauges `circuit_breakers.<priority>.*` of a cluster: which are open, and what is left where that is asked.
    pub fn circuit_breakers(&self, cluster: &Cluster) -> Vec<(RoutingPriority, &'static str, u64)> {
        let load = self.clusters.find(&cluster.name);
        let mut gauges = Vec::new();
        for priority in RoutingPriority::ALL {
            let limits = cluster.circuit_breakers.of(priority);
            let count = |resource| load.as_ref().map_or(0, |load| load.count(priority, resource));
            let requests = count(Resource::Requests).saturating_add(count(Resource::Pending));
            for (resource, most, open, remaining) in [
                (Resource::Connections, limits.connections, "cx_open", "remaining_cx"),
                (Resource::Pending, limits.pending_requests, "rq_pending_open", "remaining_pending"),
                (Resource::Requests, limits.requests, "rq_open", "remaining_rq"),
                (Resource::Retries, limits.most_retries(requests), "rq_retry_open", "remaining_retries"),
            ] {
                let used = count(resource);
                gauges.push((priority, open, u64::from(used >= most)));
                // What is left of a budget changes with every request: as in Envoy, nobody is told.
                let is_budget = resource == Resource::Retries && limits.retry_budget.is_some();
                if limits.track_remaining {
                    let left = if is_budget { 0 } else { most.saturating_sub(used) };
                    gauges.push((priority, remaining, u64::from(left)));
                }
            }
        }
        gauges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_value_for_as_long_as_it_is_held() {
        let registry = Registry::<ClusterLoad>::default();
        let name: Arc<str> = "reviews".into();
        let mut one = Load::new(registry.get(&name, ClusterLoad::default));
        let mut other = Load::new(registry.get(&name, ClusterLoad::default));
        let (default, high) = (RoutingPriority::Default, RoutingPriority::High);
        one.add(default, Resource::Requests);
        other.add(default, Resource::Requests);
        other.add(high, Resource::Requests);
        other.add(default, Resource::Pending);
        assert_eq!((one.own(Resource::Requests), one.all(default, Resource::Requests)), (1, 2));
        assert_eq!((other.own(Resource::Requests), one.all(high, Resource::Requests)), (2, 1));
        drop(other);
        assert_eq!((one.all(default, Resource::Requests), one.all(default, Resource::Pending)), (1, 0));
        one.take(default, Resource::Requests);
        one.take(default, Resource::Requests);
        assert_eq!(one.all(default, Resource::Requests), 0);
        drop(one);
        assert_eq!(Load::new(registry.get(&name, ClusterLoad::default)).all(default, Resource::Requests), 0);
    }
}
