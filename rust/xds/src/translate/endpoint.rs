//! `ClusterLoadAssignment`.

use std::net::SocketAddr;
use std::sync::Arc;

use pymesh_model::endpoint::{Endpoint, EndpointCheck, Endpoints, Health, Locality};
use pymesh_model::snapshot::WorkloadLabels;

use super::common::{enumerator, host_and_port, ip, metadata, struct_text};
use super::health_check::port_number;
use super::matcher::millionths;
use crate::diagnostic::At;
use crate::proto::envoy::config::{core::v3 as core, endpoint::v3 as endpoint};

/// An endpoint whose address has to be looked up.
#[derive(Clone, Debug)]
pub(crate) struct DnsTarget {
    /// What is asked for.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Index of its locality in the endpoints that go with it.
    pub(crate) locality: usize,
    /// The endpoint, but for its address.
    pub(crate) template: Endpoint,
}

/// Translates endpoints whose addresses are IP addresses.
pub(crate) fn endpoints(assignment: &endpoint::ClusterLoadAssignment, at: &At<'_>) -> Endpoints {
    let mut endpoints = localities(assignment, at, &mut |_, endpoint, host, at| {
        endpoint.address = SocketAddr::new(ip(host, at)?, endpoint.address.port());
        Some(endpoint.clone())
    });
    by_priority(&mut endpoints);
    endpoints
}

/// Translates endpoints whose addresses are names: empty localities, and what
/// to look up for them.
pub(crate) fn targets(assignment: &endpoint::ClusterLoadAssignment, at: &At<'_>) -> (Endpoints, Vec<DnsTarget>) {
    let mut targets = Vec::new();
    let endpoints = localities(assignment, at, &mut |locality, endpoint, host, at| {
        if host.is_empty() {
            at.refuse("this must be set, and not be empty");
        }
        if endpoint.hostname.is_empty() {
            endpoint.hostname = host.into();
        }
        targets.push(DnsTarget {
            host: host.to_owned(),
            port: endpoint.address.port(),
            locality,
            template: endpoint.clone(),
        });
        None
    });
    (endpoints, targets)
}

/// Highest priority first; the order within one stays.
pub(crate) fn by_priority(endpoints: &mut Endpoints) {
    endpoints.localities.sort_by_key(|locality| locality.priority);
}

/// Receives each endpoint with its locality's index and its host; what it
/// answers becomes an endpoint of that locality.
type Place<'p> = dyn FnMut(usize, &mut Endpoint, &str, &At<'_>) -> Option<Endpoint> + 'p;

fn localities(assignment: &endpoint::ClusterLoadAssignment, at: &At<'_>, place: &mut Place<'_>) -> Endpoints {
    let localities_at = at.field("endpoints");
    let mut localities = Vec::with_capacity(assignment.endpoints.len());
    for (index, group) in assignment.endpoints.iter().enumerate() {
        let at = localities_at.index(index);
        let endpoints_at = at.field("lb_endpoints");
        let default = core::Locality::default();
        let name = group.locality.as_ref().unwrap_or(&default);
        let mut endpoints = Vec::with_capacity(group.lb_endpoints.len());
        for (position, member) in group.lb_endpoints.iter().enumerate() {
            let at = endpoints_at.index(position);
            endpoints.extend(lb_endpoint(member, index, &at, place).map(Arc::new));
        }
        localities.push(Locality {
            region: name.region.as_str().into(),
            zone: name.zone.as_str().into(),
            sub_zone: name.sub_zone.as_str().into(),
            priority: group.priority,
            weight: group.load_balancing_weight.unwrap_or(0),
            endpoints,
        });
    }
    let mut endpoints = Endpoints::of(localities);
    if let Some(policy) = &assignment.policy {
        self::policy(policy, &mut endpoints, &at.field("policy"));
    }
    endpoints
}

fn policy(policy: &endpoint::cluster_load_assignment::Policy, endpoints: &mut Endpoints, at: &At<'_>) {
    endpoints.overprovisioning = policy.overprovisioning_factor.unwrap_or(endpoints.overprovisioning);
    endpoints.weighted_priority_health = policy.weighted_priority_health;
    let at = at.field("drop_overloads");
    if policy.drop_overloads.len() > 1 {
        at.refuse_with_hint("there can be only one", "add the percentages of the categories");
    }
    if let Some(overload) = policy.drop_overloads.first() {
        // The category is for load reports, which nobody gets from us.
        let fraction = overload.drop_percentage.unwrap_or_default();
        endpoints.drop_overload = millionths(&fraction, &at.index(0).field("drop_percentage"));
    }
}

fn lb_endpoint(member: &endpoint::LbEndpoint, locality: usize, at: &At<'_>, place: &mut Place<'_>) -> Option<Endpoint> {
    let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &member.host_identifier else {
        at.refuse("`endpoint` must be set");
        return None;
    };
    let endpoint_at = at.field("endpoint");
    let address_at = endpoint_at.field("address");
    let (host, port) = host_and_port(endpoint.address.as_ref(), &address_at)?;
    let mut translated = Endpoint {
        address: SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), port),
        hostname: endpoint.hostname.as_str().into(),
        weight: member.load_balancing_weight.unwrap_or(1),
        hash_key: metadata(member.metadata.as_ref(), "envoy.lb")
            .map(|balancing| struct_text(balancing, "hash_key").into())
            .unwrap_or_default(),
        health: health(member.health_status),
        check: check(endpoint.health_check_config.as_ref(), &endpoint_at.field("health_check_config")),
        transport_match: transport_match(member.metadata.as_ref(), &at.field("metadata")),
        workload: metadata(member.metadata.as_ref(), "istio")
            .map(|istio| workload(struct_text(istio, "workload")))
            .unwrap_or_default(),
    };
    let socket_at = address_at.field("socket_address");
    place(locality, &mut translated, host, &socket_at.field("address"))
}

fn check(config: Option<&endpoint::endpoint::HealthCheckConfig>, at: &At<'_>) -> EndpointCheck {
    let Some(config) = config else { return EndpointCheck::default() };
    let address_at = at.field("address");
    let other = config.address.as_ref().and_then(|address| {
        let (host, port) = host_and_port(Some(address), &address_at)?;
        Some((ip(host, &address_at.field("socket_address").field("address"))?, port))
    });
    let port = match config.port_value {
        0 => other.map(|(_, port)| port).filter(|port| *port > 0),
        port => port_number(port, &at.field("port_value")),
    };
    EndpointCheck {
        address: other.map(|(address, _)| address),
        port,
        hostname: config.hostname.as_str().into(),
        is_disabled: config.disable_active_health_check,
    }
}

fn health(status: i32) -> Health {
    match enumerator(status) {
        core::HealthStatus::Unknown | core::HealthStatus::Healthy => Health::Healthy,
        core::HealthStatus::Degraded => Health::Degraded,
        core::HealthStatus::Unhealthy | core::HealthStatus::Timeout => Health::Unhealthy,
        core::HealthStatus::Draining => Health::Draining,
    }
}

fn transport_match(source: Option<&core::Metadata>, at: &At<'_>) -> Vec<(Box<str>, Box<str>)> {
    const FILTER: &str = "envoy.transport_socket_match";
    let at = at.field("filter_metadata");
    metadata(source, FILTER).map(|criteria| text_pairs(criteria, &at.key(FILTER))).unwrap_or_default()
}

/// A `Struct` of strings, in order of its keys.
pub(super) fn text_pairs(criteria: &prost_types::Struct, at: &At<'_>) -> Vec<(Box<str>, Box<str>)> {
    let mut pairs = Vec::with_capacity(criteria.fields.len());
    for (key, value) in &criteria.fields {
        match &value.kind {
            Some(prost_types::value::Kind::StringValue(text)) => {
                pairs.push((key.as_str().into(), text.as_str().into()))
            }
            _ => at.key(key).refuse("only strings are compared here"),
        }
    }
    pairs
}

/// Istio's `name;namespace;canonical name;canonical revision;cluster`.
fn workload(text: &str) -> WorkloadLabels {
    let mut parts = text.split(';');
    let mut next = || -> Arc<str> { parts.next().unwrap_or_default().into() };
    WorkloadLabels { name: next(), namespace: next(), app: next(), version: next(), cluster: next() }
}

#[cfg(test)]
mod tests {
    use crate::testing::translated;

    fn with(policy: &str) -> ((u32, bool, u32), Vec<String>) {
        let (cluster, problems) = translated(&format!(
            "{{name: any, type: STATIC, load_assignment: {{cluster_name: any, policy: {{{policy}}}}}}}"
        ));
        let made = &cluster.endpoints;
        ((made.overprovisioning, made.weighted_priority_health, made.drop_overload), problems)
    }

    #[test]
    fn the_policy_of_an_assignment() {
        assert_eq!(with(""), ((140, false, 0), vec![]));
        let drop = |numerator| format!("{{category: any, drop_percentage: {{numerator: {numerator}}}}}");
        assert_eq!(
            with(&format!(
                "overprovisioning_factor: 100, weighted_priority_health: true, drop_overloads: [{}]",
                drop(25)
            )),
            ((100, true, 250_000), vec![])
        );
        let at = "load_assignment.policy.drop_overloads";
        assert_eq!(
            with(&format!("drop_overloads: [{}, {}]", drop(1), drop(2))).1,
            [format!("{at}: there can be only one")]
        );
        assert_eq!(
            with(&format!("drop_overloads: [{}]", drop(101))).1,
            [format!("{at}[0].drop_percentage.numerator: 101 is more than the whole")]
        );
    }
}
