//! What an engine holds at one moment, counted from what is there and not from
//! what was noted on the way: the two must agree, and both be zero when the
//! last connection has gone.

use crate::engine::Engine;
use crate::shared::Resource;

/// Counts of everything that lives in an engine. See [`Engine::census`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Census {
    pub connections: usize,
    pub exchanges: usize,
    pub relays: usize,
    /// Entries in the queue of deadlines, stale ones included.
    pub timers: usize,
    /// Exchanges and connections to be looked at in this turn.
    pub ready: usize,
    /// As the clusters count: connections, requests on one, requests waiting, retries.
    pub cluster_connections: u32,
    pub cluster_active: u32,
    pub cluster_pending: u32,
    pub cluster_retries: u32,
    /// As their hosts count.
    pub host_connections: u32,
    pub host_active: u32,
    /// Connections that stand in a pool, and exchanges in its queue.
    pub pooled: usize,
    pub waiting: usize,
    /// Clusters that no snapshot names and hosts that no cluster lists.
    pub retired_clusters: usize,
    pub retired_hosts: usize,
    /// The most octets that one connection has unsent, or unread beyond what it processes.
    pub largest_output: usize,
    pub largest_input: usize,
    /// The most octets of one body that wait in an exchange, or are kept for another try.
    pub largest_body: usize,
}

impl Census {
    /// Nothing lives: only the configuration is left. The largest buffers are zero then too.
    pub fn is_empty(&self) -> bool {
        *self == Census::default()
    }
}

impl Engine {
    /// Counts everything that lives. It looks at all of it, so it is for tests and diagnosis.
    pub fn census(&self) -> Census {
        let mut census = Census {
            connections: self.conns.len(),
            exchanges: self.exchanges.len(),
            relays: self.relays.len(),
            timers: self.timers.len(),
            ready: self.ready.len() + self.rescans.len(),
            ..Census::default()
        };
        for cluster in self.clusters.iter() {
            census.cluster_connections += cluster.load.own(Resource::Connections);
            census.cluster_active += cluster.load.own(Resource::Requests);
            census.cluster_pending += cluster.load.own(Resource::Pending);
            census.cluster_retries += cluster.load.own(Resource::Retries);
            census.retired_clusters += usize::from(cluster.removed);
            for host in cluster.hosts.iter() {
                census.host_connections += host.connections;
                census.host_active += host.active;
                census.pooled += host.pooled().count();
                census.waiting += host.waiting();
                census.retired_hosts += usize::from(!host.listed);
            }
        }
        for conn in self.conns.iter() {
            census.largest_output = census.largest_output.max(conn.unsent());
            census.largest_input = census.largest_input.max(conn.input.len());
        }
        for exchange in self.exchanges.iter() {
            let largest = exchange.request_body.buffer.len().max(exchange.response_body.buffer.len());
            census.largest_body = census.largest_body.max(largest);
        }
        census
    }
}
