//! The text of the admin pages, from counters and the snapshot. Pure.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use pymesh_engine::telemetry::date;
use pymesh_engine::telemetry::istio::Shard;
use pymesh_engine::telemetry::stats::{sum, Groups, Hub, Kind, Stats};
use pymesh_model::Snapshot;
use pymesh_tls::SecretStore;
use serde_json::json;

use super::istio;
use crate::gauge::Gauge;

/// One group of counters: prefix in `/stats`, prefix and label in Prometheus. Without a label
/// there is one set of them, which has no name.
struct Family {
    stat: &'static str,
    /// Between the group's name and the counter's.
    infix: &'static str,
    metric: &'static str,
    label: &'static str,
}

const CLUSTER: Family = Family { stat: "cluster", infix: "", metric: "envoy_cluster", label: "envoy_cluster_name" };
const HTTP: Family = Family { stat: "http", infix: "", metric: "envoy_http", label: "envoy_http_conn_manager_prefix" };
const PYTHON_FILTER: Family =
    Family { stat: "python_filter", infix: "", metric: "pymesh_python_filter", label: "pymesh_filter_name" };
const CORS: Family =
    Family { stat: "http", infix: "cors", metric: "envoy_http_cors", label: "envoy_http_conn_manager_prefix" };
const HTTP_TRACING: Family =
    Family { stat: "http", infix: "tracing", metric: "envoy_http_tracing", label: "envoy_http_conn_manager_prefix" };
const TRACING: Family =
    Family { stat: "tracing.opentelemetry", infix: "", metric: "envoy_tracing_opentelemetry", label: "" };
const FAULT: Family =
    Family { stat: "http", infix: "fault", metric: "envoy_http_fault", label: "envoy_http_conn_manager_prefix" };
/// Its names are whole, up to the counter's: a configured prefix may stand before that.
const RBAC: Family = Family { stat: "", infix: "", metric: "envoy_rbac", label: "envoy_rbac_prefix" };
/// Likewise.
const EXT_AUTHZ: Family =
    Family { stat: "", infix: "", metric: "envoy_http_ext_authz", label: "envoy_ext_authz_prefix" };
/// Likewise.
const CLUSTER_EXT_AUTHZ: Family =
    Family { stat: "", infix: "", metric: "envoy_cluster_ext_authz", label: "envoy_ext_authz_prefix" };
const JWT: Family = Family { stat: "", infix: "", metric: "envoy_jwt_authn", label: "envoy_jwt_authn_prefix" };
const CONNECTION_EXT_AUTHZ: Family =
    Family { stat: "ext_authz", infix: "", metric: "envoy_ext_authz", label: "envoy_ext_authz_prefix" };
const LOCAL_RATE_LIMIT: Family = Family {
    stat: "",
    infix: "http_local_rate_limit",
    metric: "envoy_http_local_rate_limit",
    label: "envoy_local_http_ratelimit_prefix",
};
const TCP: Family = Family { stat: "tcp", infix: "", metric: "envoy_tcp", label: "envoy_tcp_prefix" };
const LISTENER: Family =
    Family { stat: "listener", infix: "", metric: "envoy_listener", label: "envoy_listener_address" };
const TLS_INSPECTOR: Family = Family { stat: "tls_inspector", infix: "", metric: "envoy_tls_inspector", label: "" };
const HTTP_INSPECTOR: Family = Family { stat: "http_inspector", infix: "", metric: "envoy_http_inspector", label: "" };
const PROXY_PROTOCOL: Family = Family { stat: "proxy_proto", infix: "", metric: "envoy_proxy_proto", label: "" };
const PROXY_PROTOCOL_VERSION: Family = Family {
    stat: "proxy_proto.versions",
    infix: "",
    metric: "envoy_proxy_proto",
    label: "envoy_proxy_protocol_version",
};
const LISTENER_TLS: Family =
    Family { stat: "listener", infix: "ssl", metric: "envoy_listener_ssl", label: "envoy_listener_address" };
const CLUSTER_TLS: Family =
    Family { stat: "cluster", infix: "ssl", metric: "envoy_cluster_ssl", label: "envoy_cluster_name" };
const CLUSTER_HTTP2: Family =
    Family { stat: "cluster", infix: "http2", metric: "envoy_cluster_http2", label: "envoy_cluster_name" };
const OUTLIERS: Family = Family {
    stat: "cluster",
    infix: "outlier_detection",
    metric: "envoy_cluster_outlier_detection",
    label: "envoy_cluster_name",
};
const HEALTH_CHECKS: Family = Family {
    stat: "cluster",
    infix: "health_check",
    metric: "envoy_cluster_health_check",
    label: "envoy_cluster_name",
};
const FILESYSTEM: Family = Family { stat: "filesystem", infix: "", metric: "envoy_filesystem", label: "" };
const FILE_LOG: Family = Family { stat: "access_logs.file", infix: "", metric: "envoy_access_logs_file", label: "" };
const OTLP_LOG: Family = Family {
    stat: "access_logs.open_telemetry_access_log",
    infix: "",
    metric: "envoy_access_logs_open_telemetry_access_log",
    label: "",
};
const HTTP2: Family = Family { stat: "http2", infix: "", metric: "envoy_http2", label: "" };

/// `/stats`: one `name: value` a line, sorted.
pub(crate) fn stats(hub: &Hub, gauges: &[Gauge], process: &[(String, u64)]) -> String {
    let mut lines: Vec<String> = Vec::new();
    each(&hub.lock(), |family, name, stat, _, value| {
        if family.stat.is_empty() && family.infix.is_empty() {
            return lines.push(format!("{name}{stat}: {value}"));
        }
        let parts = [family.stat, name, family.infix, stat];
        let path: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        lines.push(format!("{}: {value}", path.join(".")));
    });
    lines.extend(gauges.iter().map(|gauge| format!("{}: {}", gauge.stat, gauge.value)));
    lines.extend(process.iter().map(|(name, value)| format!("{name}: {value}")));
    lines.sort_unstable();
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// `/stats/prometheus`, in the text exposition format 0.0.4.
pub(crate) fn prometheus(hub: &Hub, gauges: &[Gauge], shards: &[Arc<Shard>], process: &[(String, u64)]) -> String {
    let mut out = format!(
        "# TYPE istio_build gauge\nistio_build{{component=\"proxy\",tag=\"{}\"}} 1\n",
        env!("CARGO_PKG_VERSION")
    );
    istio::write(&mut out, shards);
    let mut families: HashMap<String, (Kind, Vec<String>)> = HashMap::new();
    each(&hub.lock(), |family, name, stat, kind, value| {
        let metric = format!("{}_{stat}", family.metric);
        let line = match family.label {
            "" => format!("{metric} {value}"),
            label => format!("{metric}{{{label}=\"{}\"}} {value}", escape(name)),
        };
        families.entry(metric).or_insert((kind, Vec::new())).1.push(line);
    });
    for Gauge { metric, labels, value, .. } in gauges {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let line = format!("{metric}{{{}}} {value}", labels.join(","));
        families.entry(metric.clone()).or_insert((Kind::Gauge, Vec::new())).1.push(line);
    }
    let mut names: Vec<&String> = families.keys().collect();
    names.sort_unstable();
    for name in names {
        if let Some((kind, lines)) = families.get(name) {
            let kind = if kind.is_counter() { "counter" } else { "gauge" };
            let _infallible = writeln!(out, "# TYPE {name} {kind}");
            let mut lines = lines.clone();
            lines.sort_unstable();
            out.push_str(&lines.join("\n"));
            out.push('\n');
        }
    }
    for (name, value) in process {
        let metric = name.replace('.', "_");
        let _infallible = writeln!(out, "# TYPE envoy_{metric} gauge\nenvoy_{metric} {value}");
    }
    out
}

fn each(groups: &Groups, mut f: impl FnMut(&Family, &str, &'static str, Kind, u64)) {
    fn walk<T: Stats>(
        family: &Family,
        group: &HashMap<Arc<str>, Vec<Arc<T>>>,
        f: &mut dyn FnMut(&Family, &str, &'static str, Kind, u64),
    ) {
        for (name, workers) in group {
            for (stat, kind, value) in sum(workers) {
                f(family, name, stat, kind, value);
            }
        }
    }
    walk(&CLUSTER, &groups.clusters, &mut f);
    walk(&CLUSTER_HTTP2, &groups.cluster_http2, &mut f);
    walk(&OUTLIERS, &groups.outliers, &mut f);
    walk(&HEALTH_CHECKS, &groups.health_checks, &mut f);
    walk(&HTTP2, &groups.http2, &mut f);
    walk(&HTTP, &groups.http, &mut f);
    walk(&PYTHON_FILTER, &groups.python_filters, &mut f);
    walk(&PYTHON_FILTER, &groups.python_filter_configs, &mut f);
    walk(&CORS, &groups.cors, &mut f);
    walk(&HTTP_TRACING, &groups.http_tracing, &mut f);
    walk(&TRACING, &groups.tracing, &mut f);
    walk(&FAULT, &groups.fault, &mut f);
    walk(&RBAC, &groups.rbac, &mut f);
    walk(&RBAC, &groups.rbac_shadow, &mut f);
    walk(&EXT_AUTHZ, &groups.ext_authz, &mut f);
    walk(&CLUSTER_EXT_AUTHZ, &groups.cluster_ext_authz, &mut f);
    walk(&JWT, &groups.jwt, &mut f);
    walk(&CONNECTION_EXT_AUTHZ, &groups.connection_ext_authz, &mut f);
    walk(&LOCAL_RATE_LIMIT, &groups.local_rate_limits, &mut f);
    walk(&TCP, &groups.tcp, &mut f);
    walk(&LISTENER, &groups.listeners, &mut f);
    walk(&LISTENER_TLS, &groups.listener_tls, &mut f);
    walk(&CLUSTER_TLS, &groups.cluster_tls, &mut f);
    walk(&TLS_INSPECTOR, &groups.tls_inspector, &mut f);
    walk(&HTTP_INSPECTOR, &groups.http_inspector, &mut f);
    walk(&PROXY_PROTOCOL, &groups.proxy_protocol, &mut f);
    walk(&PROXY_PROTOCOL_VERSION, &groups.proxy_protocol_versions, &mut f);
    walk(&FILESYSTEM, &groups.filesystem, &mut f);
    walk(&FILE_LOG, &groups.file_log, &mut f);
    walk(&OTLP_LOG, &groups.otlp_log, &mut f);
}

/// Label values (exposition format: backslash, quote and newline are escaped).
pub(super) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `/listeners`: `name::address` a line.
pub(crate) fn listeners(snapshot: &Snapshot) -> String {
    let lines = snapshot.listeners.iter().map(|listener| format!("{}::{}\n", listener.name, listener.address));
    lines.collect()
}

/// `/listeners?format=json`.
pub(crate) fn listeners_json(snapshot: &Snapshot) -> String {
    let statuses: Vec<serde_json::Value> = snapshot
        .listeners
        .iter()
        .map(|listener| {
            json!({
                "name": *listener.name,
                "local_address": {"socket_address": {
                    "address": listener.address.ip().to_string(),
                    "port_value": listener.address.port(),
                }},
            })
        })
        .collect();
    json!({ "listener_statuses": statuses }).to_string()
}

/// `/certs`: what may be shown of every secret.
pub(crate) fn certs(secrets: &SecretStore) -> String {
    let now = secrets.now();
    let utc = |seconds: i64| date::utc(u64::try_from(seconds).unwrap_or(0));
    let mut entries = Vec::new();
    for secret in secrets.describe() {
        let details: Vec<serde_json::Value> = secret
            .certificates
            .iter()
            .map(|certificate| {
                json!({
                    "path": secret.name.as_str(),
                    "serial_number": certificate.serial,
                    "subject_alt_names": certificate.sans.dns.iter().map(|dns| json!({"dns": dns}))
                        .chain(certificate.sans.uri.iter().map(|uri| json!({"uri": uri})))
                        .chain(certificate.sans.ip.iter().map(|ip| json!({"ip_address": ip.to_string()})))
                        .collect::<Vec<_>>(),
                    "days_until_expiration": certificate.days_until_expiration(now).to_string(),
                    "valid_from": utc(certificate.not_before),
                    "expiration_time": utc(certificate.not_after),
                })
            })
            .collect();
        let (kind, other) = if secret.is_trust { ("ca_cert", "cert_chain") } else { ("cert_chain", "ca_cert") };
        entries.push(json!({ kind: details, other: [] }));
    }
    json!({ "certificates": entries }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_label_values() {
        assert_eq!(escape("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }

    #[test]
    fn stats_are_sorted_and_summed() {
        let hub = Hub::default();
        let name: Arc<str> = "a".into();
        hub.cluster(0, &name).upstream_rq_total.add(2);
        hub.cluster(1, &name).upstream_rq_total.add(3);
        let text = stats(&hub, &[], &[("server.live".to_owned(), 1)]);
        assert!(text.contains("cluster.a.upstream_rq_total: 5\n"), "{text}");
        assert!(text.ends_with("server.live: 1\n"));
        let text = prometheus(&hub, &[], &[], &[("server.live".to_owned(), 1)]);
        assert!(text.contains("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"a\"} 5\n"), "{text}");
    }
}
