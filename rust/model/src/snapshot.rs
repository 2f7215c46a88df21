//! The whole configuration of one proxy at one moment.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::listener::Listener;
use crate::route::RouteTable;

/// Everything the engine reads. Published by swapping one `Arc<Snapshot>`.
///
/// Invariants, kept by whoever builds one:
/// * listener names and addresses are unique;
/// * every `RouteSource::Named` of a listener is in `routes` (the listener is
///   held back until it is: warming);
/// * a cluster with discovered endpoints is here only once it has an answer
///   for them, even if that answer is "none";
/// * a cluster that moves from `warming` to `clusters` stays the same `Arc`.
///
/// A route may name a cluster that is not here; such a request is answered
/// with 503 and flag `NC`, as Envoy does.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows with each snapshot of a process.
    pub version: u64,
    /// Who this proxy is.
    pub node: Arc<Node>,
    /// Listeners in the order they were configured.
    pub listeners: Vec<Arc<Listener>>,
    /// Route tables by name, for listeners that refer to them by name (RDS).
    pub routes: HashMap<Arc<str>, Arc<RouteTable>>,
    /// Clusters by name.
    pub clusters: HashMap<Arc<str>, Arc<Cluster>>,
    /// Clusters that are new, and whose hosts are asked how they are before anybody is led there: no route finds them.
    pub warming: HashMap<Arc<str>, Arc<Cluster>>,
}

/// Identity of the proxy, from the bootstrap's `node`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `node.id`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.locality.zone`.
    pub zone: String,
    /// The workload for telemetry labels, from node metadata (`WORKLOAD_NAME`, `NAMESPACE`, `LABELS`).
    pub workload: WorkloadLabels,
}

/// What Istio's metrics say about one side of a connection. An empty string is
/// printed as `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorkloadLabels {
    /// Deployment or workload entry name.
    pub name: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// `service.istio.io/canonical-name`, or the `app` label.
    pub app: Arc<str>,
    /// `service.istio.io/canonical-revision`, or the `version` label.
    pub version: Arc<str>,
    /// Cluster (mesh location) id.
    pub cluster: Arc<str>,
}
