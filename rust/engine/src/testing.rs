//! Insides of the engine for fuzz targets and the simulator, which look at them
//! alone or count what is left: see the functions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pymesh_http::{Headers, RequestHead, ResponseHead};
use pymesh_model::format::AccessLog;
use pymesh_model::http::{ClientCert, ClientCertDetails, Forwarding, PathPolicy};
use pymesh_model::metadata::Metadata;
use pymesh_model::route::{PathRewrite, Redirect, RouteMatch};
use pymesh_tls::{PeerIdentity, SubjectAltNames};

use crate::base::time::{Time, WallClock};
use crate::exchange::forward::forward_client_cert;
use crate::exchange::grpc_web::GrpcWeb;
use crate::route::path::{self, Outcome};
use crate::route::{grpc, rewrite};
use crate::telemetry::stats::{sum, Hub, Kind, Stats};
use crate::telemetry::{Facts, Flags};
use crate::tracing::context::{self, Dialect};

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
    let facts = facts();
    let address = facts.local;
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

/// A connection without TLS.
fn facts() -> Facts {
    let address = SocketAddr::from(([10, 0, 0, 1], 80));
    Facts {
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
    }
}

/// gRPC-Web's translation of one request and its answer.
pub struct GrpcWebCodec(Box<GrpcWeb>);

impl GrpcWebCodec {
    /// Makes a request gRPC if it is gRPC-Web.
    pub fn open(request: &mut RequestHead) -> Option<GrpcWebCodec> {
        GrpcWeb::open(request, 0).map(GrpcWebCodec)
    }

    /// Octets of the request; false if they are refused.
    pub fn request_data(&mut self, data: &[u8], out: &mut Vec<u8>) -> bool {
        self.0.request_data(data, out).is_ok()
    }

    /// The end of the request; false if it is refused.
    pub fn request_end(&mut self) -> bool {
        self.0.request_end().is_ok()
    }

    /// The head of the answer; false if it passes as it is.
    pub fn begin_answer(&mut self, response: &mut ResponseHead) -> bool {
        self.0.begin_answer(response);
        self.0.is_grpc_answer
    }

    /// Octets of the answer.
    pub fn answer_data(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.0.answer_data(data, out);
    }

    /// Its trailers.
    pub fn answer_trailers(&mut self, trailers: &Headers, out: &mut Vec<u8>) {
        self.0.answer_trailers(trailers, out);
    }
}

/// What headers say of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The trace and the span of whoever asks.
    pub parent: Option<(u128, u64)>,
    /// Whether spans are kept.
    pub sampled: Option<bool>,
    /// It is said in `b3`, too.
    pub b3: bool,
    /// It is said in `x-b3-*`, too.
    pub b3_headers: bool,
}

/// What a request says of its trace.
pub fn read_trace(headers: &Headers) -> Told {
    let said = context::read(headers);
    Told {
        parent: said.parent,
        sampled: said.sampled,
        b3: said.dialect == Dialect::B3,
        b3_headers: said.dialect == Dialect::B3Headers,
    }
}

/// Says it. Nothing is said of no trace.
pub fn write_trace(headers: &mut Headers, told: &Told) {
    let dialect = match (told.b3, told.b3_headers) {
        (true, _) => Dialect::B3,
        (_, true) => Dialect::B3Headers,
        _ => Dialect::W3c,
    };
    if let Some((parent, is_sampled)) = told.parent.zip(told.sampled) {
        context::write(headers, dialect, parent, is_sampled);
    }
}

/// The time that a value of `grpc-timeout` says.
pub fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    grpc::timeout(value)
}

/// A time as a value of `grpc-timeout`.
pub fn grpc_timeout_value(time: Duration) -> String {
    String::from_utf8_lossy(grpc::timeout_value(time).as_bytes()).into_owned()
}

/// `x-forwarded-client-cert` of a request. A client with a certificate has a subject, our URI, its own, its DNS name and
/// the hash.
pub fn forwarded_client_cert(
    headers: &mut Headers,
    client_cert: ClientCert,
    client_cert_details: ClientCertDetails,
    cert: Option<(&str, &str, &str, &str, [u8; 32])>,
) {
    let how = Forwarding { client_cert, client_cert_details, ..Forwarding::default() };
    let facts = cert.map(|(subject, own, uri, dns, sha256)| {
        let sans = SubjectAltNames { uri: vec![uri.into()], dns: vec![dns.into()], ..SubjectAltNames::default() };
        let peer = PeerIdentity {
            subject: subject.into(),
            issuer: String::new(),
            serial: String::new(),
            sans,
            sha256,
            not_before: 0,
            not_after: 0,
        };
        Facts { peer: Some(peer), own_uris: vec![own.into()], ..facts() }
    });
    forward_client_cert(headers, &how, facts.as_ref(), &mut Vec::new());
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
