//! Endpoints (Envoy `ClusterLoadAssignment`).

use std::net::SocketAddr;
use std::sync::Arc;

use crate::snapshot::WorkloadLabels;

/// All endpoints of a cluster, by locality.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Highest priority (0) first.
    pub localities: Vec<Locality>,
}

impl Endpoints {
    /// Every endpoint with its locality.
    pub fn iter(&self) -> impl Iterator<Item = (&Locality, &Arc<Endpoint>)> + '_ {
        self.localities.iter().flat_map(|locality| locality.endpoints.iter().map(move |e| (locality, e)))
    }
}

/// `LocalityLbEndpoints`.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub sub_zone: Arc<str>,
    /// 0 is tried first; others only when it has no healthy endpoint.
    pub priority: u32,
    /// Relative to other localities of the priority; zero gets nothing.
    pub weight: u32,
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// `LbEndpoint`.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// For `auto_host_rewrite`, SNI and logs; may be empty.
    pub hostname: Arc<str>,
    /// Relative share, at least 1.
    pub weight: u32,
    /// As the control plane says.
    pub health: Health,
    /// `envoy.transport_socket_match` metadata.
    pub transport_match: Vec<(Box<str>, Box<str>)>,
    /// From `istio.workload` metadata.
    pub workload: WorkloadLabels,
}

/// `HealthStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// `UNKNOWN` or `HEALTHY`.
    #[default]
    Healthy,
    /// `DEGRADED`: used when healthy ones do not suffice.
    Degraded,
    /// `UNHEALTHY` or `TIMEOUT`.
    Unhealthy,
    /// `DRAINING`: no new requests.
    Draining,
}
