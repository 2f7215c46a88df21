//! Endpoints (Envoy `ClusterLoadAssignment`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::snapshot::WorkloadLabels;

/// All endpoints of a cluster, by locality.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Highest priority (0) first.
    pub localities: Vec<Locality>,
    /// `overprovisioning_factor`, per cent: hosts of a priority or locality can be missing up to this
    /// before others take over from it. Not zero.
    pub overprovisioning: u32,
    /// `weighted_priority_health`: the health of a priority counts weights, not hosts.
    pub weighted_priority_health: bool,
    /// `drop_overloads`: how many of a million requests are answered 503 in place of the endpoints.
    pub drop_overload: u32,
}

impl Default for Endpoints {
    fn default() -> Self {
        Endpoints::of(Vec::new())
    }
}

impl Endpoints {
    /// Localities with Envoy's defaults.
    pub fn of(localities: Vec<Locality>) -> Endpoints {
        Endpoints { localities, overprovisioning: 140, weighted_priority_health: false, drop_overload: 0 }
    }

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
    /// 0 takes all load while enough of it is healthy; what it cannot take goes to 1, and so on.
    pub priority: u32,
    /// Relative to other localities of the priority, where they share by weight; zero gets nothing then.
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
    /// What stands for it in tables of consistent hashing, from `envoy.lb` metadata; may be empty.
    pub hash_key: Box<str>,
    /// As the control plane says.
    pub health: Health,
    /// How its health is checked, where that is not as for the others.
    pub check: EndpointCheck,
    /// `envoy.transport_socket_match` metadata.
    pub transport_match: Vec<(Box<str>, Box<str>)>,
    /// From `istio.workload` metadata.
    pub workload: WorkloadLabels,
}

/// `Endpoint.HealthCheckConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointCheck {
    /// In place of its own address.
    pub address: Option<IpAddr>,
    /// In place of its own port.
    pub port: Option<u16>,
    /// In place of the host or authority that the check names.
    pub hostname: Arc<str>,
    /// It is not checked.
    pub is_disabled: bool,
}

/// `HealthStatus`, better before worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// `UNKNOWN` or `HEALTHY`.
    #[default]
    Healthy,
    /// `DEGRADED`: used when healthy ones do not suffice.
    Degraded,
    /// `UNHEALTHY` or `TIMEOUT`.
    Unhealthy,
    /// `DRAINING`: as unhealthy, and the others' health is judged as if it were not there.
    Draining,
}
