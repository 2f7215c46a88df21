//! `/clusters`: every cluster and endpoint, and what this proxy thinks of each; as Envoy's text and as its JSON
//! (`envoy.admin.v3.Clusters`), which `istioctl proxy-config endpoints -f` reads. Pure.

use std::fmt::Write as _;
use std::sync::Arc;

use pymesh_engine::health::Flags;
use pymesh_engine::shared::Commons;
use pymesh_model::cluster::Cluster;
use pymesh_model::endpoint::Health;
use pymesh_model::Snapshot;
use serde_json::{json, Map, Value};

/// `name::endpoint::what::value` a line, for what exists here.
pub(crate) fn text(snapshot: &Snapshot, commons: &Commons) -> String {
    let mut out = String::new();
    let mut names: Vec<&Arc<str>> = snapshot.clusters.keys().collect();
    names.sort_unstable();
    for name in names {
        let Some(cluster) = snapshot.clusters.get(name) else { continue };
        let breakers = &cluster.circuit_breakers;
        let health = commons.health(name);
        let _infallible = writeln!(out, "{name}::observability_name::{}", cluster.stat_name);
        if let Some(health) = health.as_ref().filter(|_| cluster.outlier_detection.is_some()) {
            let [(average, threshold), (local_average, local_threshold)] = health.averages();
            let _infallible = writeln!(
                out,
                "{name}::outlier::success_rate_average::{average}\n\
                 {name}::outlier::success_rate_ejection_threshold::{threshold}\n\
                 {name}::outlier::local_origin_success_rate_average::{local_average}\n\
                 {name}::outlier::local_origin_success_rate_ejection_threshold::{local_threshold}",
            );
        }
        for (priority, limits) in [("default", breakers.default), ("high", breakers.high)] {
            let _infallible = writeln!(
                out,
                "{name}::{priority}_priority::max_connections::{}\n\
                 {name}::{priority}_priority::max_pending_requests::{}\n\
                 {name}::{priority}_priority::max_requests::{}\n{name}::{priority}_priority::max_retries::{}",
                limits.connections, limits.pending_requests, limits.requests, limits.retries
            );
        }
        for (locality, endpoint) in cluster.endpoints.iter() {
            let address = endpoint.address;
            let known = health.as_ref().and_then(|health| health.describe(endpoint));
            let (found, [rate, local_rate]) = known.unwrap_or((Flags::default(), [-1.0; 2]));
            let flags = Flags::of_eds(endpoint.health).with(found);
            let _infallible = writeln!(
                out,
                "{name}::{address}::hostname::{}\n{name}::{address}::health_flags::{flags}\n\
                 {name}::{address}::weight::{}\n{name}::{address}::region::{}\n{name}::{address}::zone::{}\n\
                 {name}::{address}::sub_zone::{}\n{name}::{address}::priority::{}\n\
                 {name}::{address}::success_rate::{rate}\n\
                 {name}::{address}::local_origin_success_rate::{local_rate}",
                endpoint.hostname,
                endpoint.weight,
                locality.region,
                locality.zone,
                locality.sub_zone,
                locality.priority
            );
        }
    }
    out
}

/// The same with `?format=json`.
pub(crate) fn json(snapshot: &Snapshot, commons: &Commons) -> String {
    let mut clusters: Vec<&Arc<Cluster>> = snapshot.clusters.values().collect();
    clusters.sort_unstable_by_key(|cluster| &cluster.name);
    let statuses: Vec<Value> = clusters.into_iter().map(|cluster| status(cluster, commons)).collect();
    json!({ "cluster_statuses": statuses }).to_string()
}

fn status(cluster: &Cluster, commons: &Commons) -> Value {
    let breakers = &cluster.circuit_breakers;
    let thresholds = [("DEFAULT", breakers.default), ("HIGH", breakers.high)].map(|(priority, limits)| {
        json!({
            "priority": priority,
            "max_connections": limits.connections,
            "max_pending_requests": limits.pending_requests,
            "max_requests": limits.requests,
            "max_retries": limits.retries,
        })
    });
    let health = commons.health(&cluster.name);
    let hosts = cluster.endpoints.iter().map(|(locality, endpoint)| {
        let known = health.as_ref().and_then(|health| health.describe(endpoint));
        let flags = Flags::of_eds(endpoint.health).with(known.map(|(flags, _)| flags).unwrap_or_default());
        let mut host = json!({
            "address": {"socket_address": {
                "address": endpoint.address.ip().to_string(),
                "port_value": endpoint.address.port(),
            }},
            "health_status": health_status(endpoint.health, flags),
            "weight": endpoint.weight,
            "hostname": *endpoint.hostname,
            "locality": {"region": *locality.region, "zone": *locality.zone, "sub_zone": *locality.sub_zone},
        });
        // Zero is not written (proto3's JSON).
        if let Some(fields) = host.as_object_mut().filter(|_| locality.priority > 0) {
            fields.insert("priority".to_owned(), locality.priority.into());
        }
        host
    });
    json!({
        "name": *cluster.name,
        "observability_name": *cluster.stat_name,
        "circuit_breakers": {"thresholds": thresholds},
        "host_statuses": hosts.collect::<Vec<_>>(),
    })
}

/// `envoy.admin.v3.HostHealthStatus`: what the control plane says, and what is true of the host beside it.
fn health_status(health: Health, flags: Flags) -> Map<String, Value> {
    let told = match health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
    };
    let found = [
        ("failed_active_health_check", Flags::FAILED_ACTIVE_HC),
        ("failed_outlier_check", Flags::FAILED_OUTLIER_CHECK),
        ("failed_active_degraded_check", Flags::DEGRADED_ACTIVE_HC),
        ("pending_active_hc", Flags::PENDING_ACTIVE_HC),
        ("excluded_via_immediate_hc_fail", Flags::EXCLUDED_VIA_IMMEDIATE_HC_FAIL),
        ("active_hc_timeout", Flags::ACTIVE_HC_TIMEOUT),
    ];
    let mut status = Map::from_iter([("eds_health_status".to_owned(), told.into())]);
    let is = found.into_iter().filter(|(_, flag)| flags.has(*flag));
    status.extend(is.map(|(name, _)| (name.to_owned(), true.into())));
    status
}
