//! From a finished exchange or relay to metrics and log lines.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pymesh_http::Known;
use pymesh_model::cluster::{Cluster, ServiceLabels};
use pymesh_model::format::{AccessLog, LogSink};
use pymesh_model::listener::Direction;
use pymesh_model::snapshot::WorkloadLabels;
use pymesh_model::Node;

use super::access_log::Lines;
use super::istio::{IstioMetrics, Labels, SeriesKey, Shard};
use super::notices::Notices;
use super::view::View;
use super::{Facts, Flags};
use crate::base::rng::Rng;
use crate::base::time::{Time, WallClock};
use crate::exchange::Exchange;

/// One worker's telemetry.
pub(crate) struct Recorder {
    clock: WallClock,
    node: Arc<Node>,
    metrics: IstioMetrics,
    lines: Lines,
    notices: Notices,
    peers: HashMap<String, u64>,
    unknown: Arc<str>,
}

/// A TCP relay, or a listener's connection, that has ended.
pub(crate) struct Connection<'a> {
    pub logs: &'a [Arc<AccessLog>],
    pub facts: &'a Facts,
    pub flags: Flags,
    pub upstream: Option<SocketAddr>,
    pub upstream_local: Option<SocketAddr>,
    pub attempts: u32,
    pub cluster: Option<&'a Cluster>,
    pub received: u64,
    pub sent: u64,
    pub started: Time,
    pub ended: Time,
    pub downstream_failure: Option<&'a str>,
    pub transport_failure: Option<&'a str>,
    pub details: &'static str,
    pub termination: Option<&'a str>,
}

impl Recorder {
    pub fn new(clock: WallClock, node: Arc<Node>, shard: Arc<Shard>) -> Self {
        Recorder {
            clock,
            node,
            metrics: IstioMetrics::new(shard),
            lines: Lines::default(),
            notices: Notices::default(),
            peers: HashMap::new(),
            unknown: "unknown".into(),
        }
    }

    /// The configuration has changed.
    pub fn reconfigure(&mut self, node: &Arc<Node>) {
        self.node = node.clone();
        self.metrics.forget_keys();
    }

    /// A small number for a peer's identity; 0 for none.
    pub fn peer_id(&mut self, principal: Option<&str>) -> u64 {
        let Some(principal) = principal else { return 0 };
        if let Some(id) = self.peers.get(principal) {
            return *id;
        }
        let id = self.peers.len() as u64 + 1;
        self.peers.insert(principal.to_owned(), id);
        id
    }

    /// A line about a connection for the log of the process.
    pub fn notice(&mut self, now: Time, why: &'static str, who: std::fmt::Arguments<'_>) {
        if let Some(unsaid) = self.notices.admit(now, why) {
            let mut line = Vec::new();
            super::date::rfc3339(self.clock.unix_nanos(now), &mut line);
            line.extend(format!(" connection closed: {why}: {who}").bytes());
            if unsaid > 0 {
                line.extend(format!(" ({unsaid} more in the meantime)").bytes());
            }
            line.push(b'\n');
            self.lines.raw(&LogSink::Stderr, &line);
        }
    }

    /// Hands out log lines, by sink.
    pub fn take_lines(&mut self, write: impl FnMut(&LogSink, &mut Vec<u8>)) {
        self.lines.take(write);
    }

    pub fn has_lines(&self) -> bool {
        !self.lines.is_empty()
    }

    pub fn dropped_lines(&self) -> u64 {
        self.lines.dropped
    }

    /// A view of an exchange, for logs and header formats.
    pub fn view<'a>(&'a self, exchange: &'a Exchange, facts: &'a Facts, now: Time) -> View<'a> {
        View {
            clock: self.clock,
            hostname: &self.node.id,
            facts,
            metadata: &exchange.metadata,
            request: Some(&exchange.request),
            response: Some(&exchange.response).filter(|_| exchange.has_response),
            trailers: Some(&exchange.response_body.trailers),
            flags: exchange.flags,
            details: &exchange.details,
            downstream_failure: None,
            transport_failure: exchange.transport_failure.as_deref(),
            termination: None,
            route: exchange.routed.as_ref().map(|routed| &*routed.route.name),
            cluster: exchange.cluster_config.as_ref().map(|cluster| &*cluster.name),
            upstream: exchange.endpoint.as_ref().map(|endpoint| endpoint.address),
            upstream_local: exchange.upstream_local,
            attempts: exchange.attempt,
            received: exchange.request_body.total,
            sent: exchange.bytes_sent,
            started: exchange.started,
            request_received: exchange.request_received,
            response_received: exchange.response_received,
            now,
        }
    }

    /// A request is over.
    pub fn request(&mut self, exchange: &Exchange, now: Time, rng: &mut Rng) {
        let (Some(http), Some(facts)) = (&exchange.http, &exchange.facts) else { return };
        if http.direction != Direction::Unspecified || exchange.cluster_config.is_some() {
            self.count(exchange, http.direction, facts, now);
        }
        for log in &http.config.access_logs {
            if is_sampled(log, rng) {
                let mut lines = std::mem::take(&mut self.lines);
                lines.log(log, &self.view(exchange, facts, now));
                self.lines = lines;
            }
        }
    }

    /// A connection is over.
    pub fn connection(&mut self, record: &Connection<'_>, rng: &mut Rng) {
        for log in record.logs.iter().filter(|log| is_sampled(log, rng)) {
            let view = View {
                clock: self.clock,
                hostname: &self.node.id,
                facts: record.facts,
                metadata: &record.facts.metadata,
                request: None,
                response: None,
                trailers: None,
                flags: record.flags,
                details: record.details,
                downstream_failure: record.downstream_failure,
                transport_failure: record.transport_failure,
                termination: record.termination,
                route: None,
                cluster: record.cluster.map(|cluster| &*cluster.name),
                upstream: record.upstream,
                upstream_local: record.upstream_local,
                attempts: record.attempts,
                received: record.received,
                sent: record.sent,
                started: record.started,
                request_received: None,
                response_received: None,
                now: record.ended,
            };
            self.lines.log(log, &view);
        }
    }

    fn count(&mut self, exchange: &Exchange, direction: Direction, facts: &Facts, now: Time) {
        let grpc = grpc_status(exchange);
        let key = SeriesKey {
            direction: direction as u8,
            cluster: exchange.cluster.map_or(u64::MAX, |key| key.to_bits()),
            host: exchange.host.map_or(u64::MAX, |key| key.to_bits()),
            peer: facts.peer_id,
            status: exchange.response.status,
            flags: exchange.flags.bits(),
            grpc: grpc.unwrap_or(u8::MAX),
            policy: u8::from(facts.is_mutual_tls()),
        };
        let micros = now.since(exchange.started).as_micros() as u64;
        let (received, sent) = (exchange.request_body.total, exchange.bytes_sent);
        let (node, unknown) = (self.node.clone(), self.unknown.clone());
        self.metrics.count(key, micros, received, sent, || {
            (labels(exchange, direction, facts, &node, &unknown), grpc.map_or("".into(), |s| s.to_string().into()))
        });
    }
}

/// `runtime_filter`: one in so many is logged.
fn is_sampled(log: &AccessLog, rng: &mut Rng) -> bool {
    log.sample >= 1_000_000 || rng.below(1_000_000) < u64::from(log.sample)
}

/// The gRPC status of a finished exchange, if it was gRPC.
fn grpc_status(exchange: &Exchange) -> Option<u8> {
    let content_type = exchange.request.headers.get_known(Known::ContentType)?;
    if !content_type.starts_with(b"application/grpc") {
        return None;
    }
    let trailers = &exchange.response_body.trailers;
    let value =
        trailers.get_known(Known::GrpcStatus).or_else(|| exchange.response.headers.get_known(Known::GrpcStatus))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn labels(exchange: &Exchange, direction: Direction, facts: &Facts, node: &Node, unknown: &Arc<str>) -> Labels {
    let or_unknown = |value: &Arc<str>| if value.is_empty() { unknown.clone() } else { value.clone() };
    let inbound = direction == Direction::Inbound;
    let no_service = ServiceLabels::default();
    let service = exchange.cluster_config.as_ref().map_or(&no_service, |cluster| &cluster.service);
    let peer = peer_workload(facts.principal());
    let nobody = WorkloadLabels::default();
    let endpoint = exchange.endpoint.as_ref().map_or(&nobody, |endpoint| &endpoint.workload);
    let (source, destination) = if inbound { (&peer, &node.workload) } else { (&node.workload, endpoint) };
    let principal = |is_ours: bool| -> Arc<str> {
        match (inbound, is_ours) {
            (true, false) => facts.principal().map_or(unknown.clone(), Into::into),
            _ => unknown.clone(),
        }
    };
    let grpc = exchange
        .request
        .headers
        .get_known(Known::ContentType)
        .is_some_and(|value| value.starts_with(b"application/grpc"));
    let policy = match (inbound, facts.is_mutual_tls()) {
        (false, _) => "unknown",
        (true, true) => "mutual_tls",
        (true, false) => "none",
    };
    vec![
        if inbound { "destination" } else { "source" }.into(),
        or_unknown(&source.name),
        or_unknown(&source.app),
        or_unknown(&source.version),
        or_unknown(&source.namespace),
        principal(!inbound),
        or_unknown(&source.app),
        or_unknown(&source.version),
        or_unknown(&source.cluster),
        or_unknown(&destination.name),
        or_unknown(&destination.namespace),
        principal(inbound),
        or_unknown(&destination.app),
        or_unknown(&destination.version),
        or_unknown(&service.host),
        or_unknown(&destination.app),
        or_unknown(&destination.version),
        or_unknown(&service.name),
        or_unknown(&service.namespace),
        or_unknown(&destination.cluster),
        if grpc { "grpc" } else { "http" }.into(),
        exchange.response.status.to_string().into(),
        exchange.flags.to_string().into(),
        policy.into(),
    ]
}

/// What a SPIFFE ID says about its workload: `spiffe://td/ns/<ns>/sa/<account>`.
fn peer_workload(principal: Option<&str>) -> WorkloadLabels {
    let mut parts = principal.unwrap_or_default().split('/').skip(3);
    let mut labels = WorkloadLabels::default();
    while let (Some(kind), Some(value)) = (parts.next(), parts.next()) {
        match kind {
            "ns" => labels.namespace = value.into(),
            "sa" => labels.name = value.into(),
            _ => {}
        }
    }
    labels
}
