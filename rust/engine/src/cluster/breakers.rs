//! Circuit breakers: whether one more of something may be opened towards a cluster.

use pymesh_model::cluster::{CircuitBreakers, RoutingPriority};

use super::host::Host;
use super::ClusterRuntime;
use crate::shared::Resource;

impl ClusterRuntime {
    /// Whether the circuit breaker is closed for one more of this. Others may come in between: a threshold may be
    /// exceeded by as many as there are workers, for a moment.
    pub fn has_room(&self, priority: RoutingPriority, resource: Resource) -> bool {
        let limits = self.config.circuit_breakers.of(priority);
        let count = |resource| self.load.all(priority, resource);
        let most = match resource {
            Resource::Connections => limits.connections,
            Resource::Pending => limits.pending_requests,
            Resource::Requests => limits.requests,
            Resource::Retries => {
                limits.most_retries(count(Resource::Requests).saturating_add(count(Resource::Pending)))
            }
        };
        count(resource) < most
    }

    /// The same for a connection to one of its hosts.
    pub fn has_room_at(&self, host: &Host, priority: RoutingPriority) -> bool {
        let of_host = self.config.circuit_breakers.of(priority).connections_per_host;
        self.has_room(priority, Resource::Connections) && (of_host == u32::MAX || host.connections_of_all() < of_host)
    }

    /// Whether limits of connections are lower than the `old` ones were, and lower than what is open. A connection
    /// that idles in a pool is asked for no room, so a limit would never be felt while such connections are left.
    pub(super) fn has_outgrown(&self, old: &CircuitBreakers) -> bool {
        RoutingPriority::ALL.into_iter().any(|priority| {
            let (was, is) = (old.of(priority), self.config.circuit_breakers.of(priority));
            let of_hosts = || self.hosts.iter().map(Host::connections_of_all).max().unwrap_or_default();
            (is.connections < was.connections && self.load.all(priority, Resource::Connections) > is.connections)
                || (is.connections_per_host < was.connections_per_host && of_hosts() > is.connections_per_host)
        })
    }
}
