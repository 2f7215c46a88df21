//! From Envoy's messages to the parts of a `Snapshot`.
//!
//! Pure: what a translation reads besides its message is in [`Environment`],
//! what it asks for besides its result is collected in [`Needs`]. Defaults are
//! Envoy's. What the model has no place for is refused by name, and all
//! problems of a resource are found at once.

mod access_log;
mod balance;
mod bind;
mod circuit_breaker;
mod cluster;
mod common;
mod consistent_hashing;
mod endpoint;
mod filter;
mod hash_policy;
mod header;
mod health_check;
mod http;
mod listener;
mod listener_filter;
mod log_filter;
mod matcher;
mod mirror;
mod original_dst;
mod otlp;
mod outlier;
mod overload;
mod retry;
mod route;
mod secret;
mod stats;
mod tls;
mod tracing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::snapshot::WorkloadLabels;
use pymesh_model::tls::SecretName;

pub(crate) use cluster::{cluster, ClusterParts, DnsFamily, DnsSettings, EndpointSource};
pub(crate) use common::workload_from_node;
pub(crate) use endpoint::{by_priority, endpoints, DnsTarget};
pub(crate) use listener::{listener, socket_address};
pub(crate) use overload::overload;
pub(crate) use route::route_table;
pub(crate) use secret::{secret, Material, MaterialKind};

/// Reads a file or an environment variable that a `DataSource` names.
pub(crate) trait Sources {
    fn file(&self, path: &str) -> Result<Vec<u8>, String>;
    fn variable(&self, name: &str) -> Result<String, String>;
}

/// The machine that we run on.
pub(crate) struct Machine;

impl Sources for Machine {
    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        std::fs::read(path).map_err(|error| format!("file `{path}` cannot be read: {error}"))
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        std::env::var(name).map_err(|_| format!("environment variable `{name}` is not set"))
    }
}

/// What translation knows besides the message.
pub(crate) struct Environment {
    /// The bootstrap names an ADS server, so resources may come from there.
    pub(crate) ads: bool,
    /// Secrets that the proxy provides itself (see [`crate::identity`]).
    pub(crate) own_secrets: Vec<SecretName>,
    /// This proxy's workload: the destination of its inbound clusters.
    pub(crate) workload: WorkloadLabels,
    pub(crate) sources: Box<dyn Sources + Send>,
}

/// What a resource needs before it can be used, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Needs {
    /// Route tables (RDS), and how long to wait for each.
    pub(crate) routes: BTreeMap<Arc<str>, Patience>,
    /// Secrets, whoever provides them.
    pub(crate) secrets: BTreeMap<SecretName, Patience>,
    /// Keys and roots that the resource brings along, under generated names.
    pub(crate) materials: Vec<Material>,
    /// Clusters that must exist (`validate_clusters`), with the path that names them.
    pub(crate) clusters: Vec<(String, Arc<str>)>,
}

/// How long a resource waits for another before it is used without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It is provided here: waiting for it asks nobody.
    Local,
    /// `initial_fetch_timeout` of the ADS subscription; `None` is for ever.
    Ads(Option<Duration>),
}

/// One translation under way.
pub(crate) struct Context<'e> {
    pub(crate) environment: &'e Environment,
    pub(crate) needs: Needs,
}

impl<'e> Context<'e> {
    pub(crate) fn new(environment: &'e Environment) -> Self {
        Context { environment, needs: Needs::default() }
    }
}
