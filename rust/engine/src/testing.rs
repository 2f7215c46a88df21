//! Insides of the engine for fuzz targets and the simulator, which look at them
//! alone or count what is left: see the functions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pymesh_http::{RequestHead, ResponseHead};
use pymesh_model::format::AccessLog;
use pymesh_model::http::PathPolicy;
use pymesh_model::metadata::Metadata;
use pymesh_model::route::{PathRewrite, Redirect, RouteMatch};

use crate::base::time::{Time, WallClock};
use crate::route::path::{self, Outcome};
use crate::route::rewrite;
use crate::telemetry::stats::{sum, Hub, Kind, Stats};
use crate::telemetry::{Facts, Flags};

/// Makes path and host canonical; false if the request would be refused.
pub fn canonicalize(request: &mut RequestHead, policy: &PathPolicy, port: u16) -> bool {
    !matches!(path::canonicalize(request, policy, port), Outcome::Refuse(_))
}

/// The target after a path rewrite.
pub fn rewritten(rewrite: &PathRewrite, rule: &RouteMatch, target: &[u8]) -> Vec<u8> {
    rewrite::path(rewrite, rule, target)
}

/// The `location` of a redirect.
pub fn location(redirect: &Redirect, rule: &RouteMatch, request: &RequestHead) -> Vec<u8> {
    rewrite::location(redirect, rule, request)
}

/// The line of an access log for a request and its response.
pub fn log_line(log: &AccessLog, request: &RequestHead, response: &ResponseHead) -> Vec<u8> {
    let address = SocketAddr::from(([10, 0, 0, 1], 80));
    let facts = Facts {
        remote: address,
        direct_remote: address,
        local: address,
        server_name: None,
        peer: None,
        own_uris: Vec::new(),
        tls_version: None,
        tls_cipher: None,
        peer_id: 0,
        id: 1,
        chain: "chain".into(),
        metadata: Metadata::default(),
    };
    let view = crate::telemetry::view::View {
        clock: WallClock::default(),
        hostname: "host",
        facts: &facts,
        forwarding: None,
        metadata: &facts.metadata,
        request: Some(request),
        response: Some(response),
        trailers: Some(&response.headers),
        flags: Flags::NONE,
        details: "via_upstream",
        termination: None,
        downstream_failure: None,
        transport_failure: None,
        trace: Some((1, 2)),
        route: Some("route"),
        cluster: Some("cluster"),
        upstream: Some(address),
        upstream_name: "",
        upstream_local: None,
        upstream_version: None,
        upstream_facts: None,
        event: "DownstreamEnd",
        attempts: 1,
        received: 0,
        sent: 0,
        started: Time::default(),
        request_received: None,
        response_received: None,
        moments: Default::default(),
        now: Time::default(),
    };
    let mut lines = crate::telemetry::access_log::Lines::default();
    lines.log(log, &view);
    let mut line = Vec::new();
    lines.take(|_, octets| line.append(octets));
    line
}

/// Every number of an engine, in a stable order.
pub fn numbers(hub: &Hub) -> Vec<(String, Kind, u64)> {
    fn group<T: Stats + Default>(
        what: &str,
        names: &HashMap<Arc<str>, Vec<Arc<T>>>,
        into: &mut Vec<(String, Kind, u64)>,
    ) {
        for (name, workers) in names {
            into.extend(sum(workers).into_iter().map(|(n, kind, value)| (format!("{what}.{name}.{n}"), kind, value)));
        }
    }
    let mut all = Vec::new();
    let groups = hub.lock();
    group("cluster", &groups.clusters, &mut all);
    group("http", &groups.http, &mut all);
    group("python_filter", &groups.python_filters, &mut all);
    group("python_filter", &groups.python_filter_configs, &mut all);
    group("cors", &groups.cors, &mut all);
    group("fault", &groups.fault, &mut all);
    group("jwt_authn", &groups.jwt, &mut all);
    group("local_rate_limit", &groups.local_rate_limits, &mut all);
    group("ext_authz", &groups.ext_authz, &mut all);
    group("connection_ext_authz", &groups.connection_ext_authz, &mut all);
    group("tcp", &groups.tcp, &mut all);
    group("listener", &groups.listeners, &mut all);
    group("listener_tls", &groups.listener_tls, &mut all);
    group("cluster_tls", &groups.cluster_tls, &mut all);
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// What does not add up once everybody has gone: levels that are not zero, and
/// totals of what has begun and what has ended that differ.
pub fn imbalances(hub: &Hub) -> Vec<String> {
    let all = numbers(hub);
    let mut wrong = Vec::new();
    for (name, kind, value) in &all {
        if *kind == Kind::Gauge && !name.contains("membership") && *value != 0 {
            wrong.push(format!("{name} is {value}"));
        }
        for (begun, ended) in [("cx_total", "cx_destroy"), ("rq_total", "rq_completed")] {
            let Some(stem) = name.strip_suffix(begun) else { continue };
            let end = all.iter().find(|(other, ..)| other.strip_suffix(ended) == Some(stem));
            if let Some((other, _, end)) = end.filter(|(.., end)| end != value) {
                wrong.push(format!("{name} is {value}, {other} is {end}"));
            }
        }
    }
    wrong
}
