//! Gauges that are not counted by a worker, but read when somebody asks: circuit breakers, and when certificates end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pymesh_engine::shared::Commons;
use pymesh_engine::telemetry::stats::listener_name;
use pymesh_model::tls::{SecretName, Validation};
use pymesh_model::Snapshot;
use pymesh_tls::{CertificateDescription, SecretDescription, SecretStore};

/// One of them, under Envoy's names.
pub(crate) struct Gauge {
    /// On `/stats`.
    pub stat: String,
    /// In Prometheus' format.
    pub metric: String,
    pub labels: Vec<(&'static str, Arc<str>)>,
    pub value: u64,
}

/// What Envoy says while no certificate is in use.
const NO_CERTIFICATE: u64 = u32::MAX as u64;

/// Of every cluster's circuit breakers.
pub(crate) fn circuit_breakers(snapshot: &Snapshot, commons: &Commons) -> Vec<Gauge> {
    let mut found = Vec::new();
    for (name, cluster) in &snapshot.clusters {
        for (priority, gauge, value) in commons.circuit_breakers(cluster) {
            let priority = priority.as_str();
            found.push(Gauge {
                stat: format!("cluster.{name}.circuit_breakers.{priority}.{gauge}"),
                metric: format!("envoy_cluster_circuit_breakers_{priority}_{gauge}"),
                labels: vec![("envoy_cluster_name", name.clone())],
                value,
            });
        }
    }
    found
}

/// When the certificates that listeners and clusters use end. Of a trust bundle it is the root that ends first.
pub(crate) fn certificates(snapshot: &Snapshot, secrets: &SecretStore) -> Vec<Gauge> {
    let described = secrets.describe();
    let ends: BTreeMap<&SecretName, i64> =
        described.iter().filter_map(|secret| Some((&secret.name, first_to_end(secret)?.not_after))).collect();
    let mut users: BTreeSet<(&str, &str, Arc<str>, &SecretName)> = BTreeSet::new();
    for listener in &snapshot.listeners {
        let name = listener_name(listener.address);
        let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
        for tls in chains.filter_map(|chain| chain.tls.as_ref()) {
            let named = tls.certificates.iter().chain(trust(tls.validation.as_ref()));
            users.extend(named.map(|secret| ("listener", "envoy_listener_address", name.clone(), secret)));
        }
    }
    for cluster in snapshot.clusters.values() {
        let others = cluster.transport.matches.iter().map(|found| &found.socket);
        for tls in others.chain([&cluster.transport.default]).filter_map(|socket| socket.tls.as_ref()) {
            let named = tls.certificate.iter().chain(trust(tls.validation.as_ref()));
            users.extend(named.map(|secret| ("cluster", "envoy_cluster_name", cluster.stat_name.clone(), secret)));
        }
    }
    let gauge = |(of, label, name, secret): (&str, &'static str, Arc<str>, &SecretName)| {
        let value = u64::try_from(*ends.get(secret)?).unwrap_or(0);
        let secret = shown(secret);
        Some(Gauge {
            stat: format!("{of}.{name}.ssl.certificate.{secret}.expiration_unix_time_seconds"),
            metric: format!("envoy_{of}_ssl_certificate_expiration_unix_time_seconds"),
            labels: vec![("envoy_tls_certificate", secret), (label, name)],
            value,
        })
    };
    users.into_iter().filter_map(gauge).collect()
}

/// Whole days until the first certificate or root ends.
pub(crate) fn days_until_first_expires(secrets: &SecretStore) -> u64 {
    let (described, now) = (secrets.describe(), secrets.now());
    let days = described.iter().filter_map(first_to_end).map(|certificate| certificate.days_until_expiration(now));
    days.min().unwrap_or(NO_CERTIFICATE)
}

fn trust(validation: Option<&Validation>) -> Option<&SecretName> {
    validation.map(|validation| &validation.trust)
}

/// A secret's name. What a TLS context brings along has none: as with Envoy it is told apart by a hash (Envoy's is the
/// same for all that come from files).
fn shown(secret: &SecretName) -> Arc<str> {
    match secret.as_str().rsplit_once('#') {
        Some((_, hash)) => format!("unnamed_cert_{}", hash.get(..8).unwrap_or(hash)).into(),
        None => secret.as_str().into(),
    }
}

/// The leaf, or the root that ends first.
fn first_to_end(secret: &SecretDescription) -> Option<&CertificateDescription> {
    let mut each = secret.certificates.iter();
    if secret.is_trust {
        each.min_by_key(|certificate| certificate.not_after)
    } else {
        each.next()
    }
}
