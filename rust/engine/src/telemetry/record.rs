//! From a finished exchange or relay to metrics and log lines.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pymesh_http::Known;
use pymesh_model::cluster::Cluster;
use pymesh_model::endpoint::Endpoint;
use pymesh_model::format::{AccessLog, LogSink};
use pymesh_model::listener::Direction;
use pymesh_model::otlp::Exporter;
use pymesh_model::stats::Stats;
use pymesh_model::Node;

use super::access_log::Lines;
use super::istio::{Counting, IstioMetrics, Request, SeriesKey, Shard};
use super::labels::{Counted, Names, Principals, What};
use super::log_filter::admits;
use super::notices::Notices;
use super::stats::FileLogStats;
use super::view::{Moments, View};
use super::{Facts, Flags, UpstreamFacts};
use crate::base::grpc;
use crate::base::protobuf::Message;
use crate::base::rng::Rng;
use crate::base::time::{Time, WallClock};
use crate::exchange::Exchange;
use crate::tracing::Trace;

/// One worker's telemetry.
pub(crate) struct Recorder {
    clock: WallClock,
    node: Arc<Node>,
    metrics: IstioMetrics,
    lines: Lines,
    logs: Arc<FileLogStats>,
    notices: Notices,
    /// One more log, of everything, while somebody looks.
    pub tap: Option<Arc<AccessLog>>,
    peers: HashMap<String, u64>,
    names: Names,
}

/// A TCP relay, or a listener's connection.
pub(crate) struct Connection<'a> {
    pub logs: &'a [Arc<AccessLog>],
    pub facts: &'a Facts,
    pub flags: Flags,
    pub upstream: Option<SocketAddr>,
    pub upstream_local: Option<SocketAddr>,
    pub upstream_facts: Option<&'a UpstreamFacts>,
    /// Envoy's word for what is logged.
    pub event: &'static str,
    pub attempts: u32,
    pub cluster: Option<&'a Cluster>,
    pub endpoint: Option<&'a Endpoint>,
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
    pub fn new(clock: WallClock, node: Arc<Node>, shard: Arc<Shard>, logs: Arc<FileLogStats>) -> Self {
        Recorder {
            clock,
            node,
            metrics: IstioMetrics::new(shard),
            lines: Lines::default(),
            logs,
            notices: Notices::default(),
            tap: None,
            peers: HashMap::new(),
            names: Names::default(),
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
        self.logs.logs_dropped.add(std::mem::take(&mut self.lines.dropped));
        self.lines.take(write);
    }

    /// Records that wait for [`Recorder::take_records`].
    pub fn has_records(&self) -> bool {
        !self.lines.records.is_empty()
    }

    /// The records of access logs since the last call, each with its collector.
    pub fn take_records(&mut self) -> Vec<(Arc<Exporter>, Message)> {
        std::mem::take(&mut self.lines.records)
    }

    pub fn has_lines(&self) -> bool {
        !self.lines.is_empty()
    }

    /// A view of an exchange, for logs and header formats.
    pub fn view<'a>(&'a self, exchange: &'a Exchange, facts: &'a Facts, now: Time) -> View<'a> {
        View {
            clock: self.clock,
            hostname: &self.node.id,
            facts,
            forwarding: exchange.http.as_ref().map(|http| &http.config.forwarding),
            metadata: &exchange.metadata,
            request: Some(&exchange.request),
            response: Some(&exchange.response).filter(|_| exchange.has_response),
            trailers: Some(&exchange.response_body.trailers),
            flags: exchange.flags,
            details: &exchange.details,
            downstream_failure: None,
            transport_failure: exchange.transport_failure.as_deref(),
            termination: None,
            trace: exchange.trace.as_ref().map(Trace::place),
            route: exchange.routed.as_ref().map(|routed| &*routed.route.name),
            cluster: exchange.cluster_config.as_ref().map(|cluster| &*cluster.name),
            upstream: exchange.endpoint.as_ref().map(|endpoint| endpoint.address),
            upstream_name: exchange.endpoint.as_ref().map_or("", |endpoint| &endpoint.hostname),
            upstream_local: exchange.upstream_local,
            upstream_version: exchange.upstream_version,
            upstream_facts: exchange.upstream_facts.as_deref(),
            event: "DownstreamEnd",
            attempts: exchange.attempt,
            received: exchange.request_body.total,
            sent: exchange.bytes_sent,
            started: exchange.started,
            request_received: exchange.request_received,
            response_received: exchange.response_received,
            moments: Moments {
                upstream_request_began: exchange.upstream_started,
                upstream_request_ended: exchange.request_sent,
                upstream_response_ended: exchange.response_ended,
                response_began: exchange.answered,
                response_ended: Some(now).filter(|_| exchange.response_body.finished),
            },
            now,
        }
    }

    /// A request is over. `upstream` says who its endpoint was.
    pub fn request(
        &mut self,
        exchange: &Exchange,
        now: Time,
        rng: &mut Rng,
        upstream: impl FnOnce(&Exchange) -> Principals,
    ) {
        let (Some(http), Some(facts)) = (&exchange.http, &exchange.facts) else { return };
        if http.direction != Direction::Unspecified || exchange.cluster_config.is_some() {
            self.count(exchange, http.direction, facts, now, upstream);
        }
        if http.config.access_logs.is_empty() && self.tap.is_none() {
            return;
        }
        let mut lines = std::mem::take(&mut self.lines);
        let view = self.view(exchange, facts, now);
        for log in http.config.access_logs.iter().chain(&self.tap) {
            if log.filter.as_ref().is_none_or(|filter| admits(filter, &view, rng)) {
                lines.log(log, &view);
            }
        }
        self.lines = lines;
    }

    /// A connection is over.
    pub fn connection(&mut self, record: &Connection<'_>, rng: &mut Rng) {
        let mut lines = std::mem::take(&mut self.lines);
        let view = self.connection_view(record);
        for log in record.logs {
            if log.filter.as_ref().is_none_or(|filter| admits(filter, &view, rng)) {
                lines.log(log, &view);
            }
        }
        self.lines = lines;
    }

    /// What counts a relay.
    pub fn counting(
        &mut self,
        record: &Connection<'_>,
        direction: Direction,
        stats: Option<&Stats>,
        upstream: Principals,
    ) -> Counting {
        if direction == Direction::Unspecified && record.cluster.is_none() {
            return Counting::default();
        }
        let mut metrics = std::mem::take(&mut self.metrics);
        let view = self.connection_view(record);
        let counted = Counted {
            names: &self.names,
            node: &self.node,
            view: &view,
            direction,
            facts: record.facts,
            cluster: record.cluster,
            endpoint: record.endpoint,
            upstream,
            flags: record.flags,
            what: What::Connection,
        };
        let counting = metrics.connection(stats, &counted);
        self.metrics = metrics;
        counting
    }

    /// What counts the messages of a request. `upstream` says who its endpoint is.
    pub fn messages(
        &mut self,
        exchange: &Exchange,
        now: Time,
        upstream: impl FnOnce(&Exchange) -> Principals,
    ) -> Counting {
        let (Some(http), Some(facts)) = (&exchange.http, &exchange.facts) else { return Counting::default() };
        let stats = http.config.stats.as_deref();
        let key = key_of(exchange, stats, http.direction, facts);
        if let Some(known) = self.metrics.known_messages(&key) {
            return known;
        }
        let mut metrics = std::mem::take(&mut self.metrics);
        let view = self.view(exchange, facts, now);
        let counted = self.counted(exchange, http.direction, facts, &view, upstream(exchange), What::Messages);
        let counting = metrics.messages(key, stats, &counted);
        self.metrics = metrics;
        counting
    }

    /// A request as metrics see it. `upstream` is who its endpoint is.
    fn counted<'a>(
        &'a self,
        exchange: &'a Exchange,
        direction: Direction,
        facts: &'a Facts,
        view: &'a View<'a>,
        upstream: Principals,
        what: What,
    ) -> Counted<'a> {
        Counted {
            names: &self.names,
            node: &self.node,
            view,
            direction,
            facts,
            cluster: exchange.cluster_config.as_deref(),
            endpoint: exchange.endpoint.as_deref(),
            upstream,
            flags: exchange.flags,
            what,
        }
    }

    fn connection_view<'a>(&'a self, record: &'a Connection<'_>) -> View<'a> {
        View {
            clock: self.clock,
            hostname: &self.node.id,
            facts: record.facts,
            forwarding: None,
            metadata: &record.facts.metadata,
            request: None,
            response: None,
            trailers: None,
            flags: record.flags,
            details: record.details,
            downstream_failure: record.downstream_failure,
            transport_failure: record.transport_failure,
            termination: record.termination,
            trace: None,
            route: None,
            cluster: record.cluster.map(|cluster| &*cluster.name),
            upstream: record.upstream,
            upstream_name: record.endpoint.map_or("", |endpoint| &endpoint.hostname),
            upstream_local: record.upstream_local,
            upstream_version: None,
            upstream_facts: record.upstream_facts,
            event: record.event,
            attempts: record.attempts,
            received: record.received,
            sent: record.sent,
            started: record.started,
            request_received: None,
            response_received: None,
            moments: Moments::default(),
            now: record.ended,
        }
    }

    fn count(
        &mut self,
        exchange: &Exchange,
        direction: Direction,
        facts: &Facts,
        now: Time,
        upstream: impl FnOnce(&Exchange) -> Principals,
    ) {
        let Some(http) = &exchange.http else { return };
        let stats = http.config.stats.as_deref();
        let grpc = grpc_status(exchange);
        let key = SeriesKey {
            status: exchange.response.status,
            flags: exchange.flags.bits(),
            grpc: grpc.unwrap_or(u8::MAX),
            ..key_of(exchange, stats, direction, facts)
        };
        let request = Request {
            duration_micros: now.since(exchange.started).as_micros() as u64,
            request_bytes: exchange.request_body.total,
            response_bytes: exchange.bytes_sent,
        };
        if self.metrics.count(&key, stats, &request) {
            return;
        }
        let mut metrics = std::mem::take(&mut self.metrics);
        let view = self.view(exchange, facts, now);
        let what = What::Request {
            is_grpc: grpc::is_grpc(&exchange.request.headers),
            status: exchange.response.status,
            grpc_status: grpc,
        };
        let counted = self.counted(exchange, direction, facts, &view, upstream(exchange), what);
        metrics.count_new(key, stats, &request, &counted);
        self.metrics = metrics;
    }
}

/// What tells the series of an exchange from others, but for how it was answered.
fn key_of(exchange: &Exchange, stats: Option<&Stats>, direction: Direction, facts: &Facts) -> SeriesKey {
    SeriesKey {
        stats: stats.map_or(0, |stats| std::ptr::from_ref(stats).addr()),
        direction: direction as u8,
        cluster: exchange.cluster.map_or(u64::MAX, |key| key.to_bits()),
        host: exchange.host.map_or(u64::MAX, |key| key.to_bits()),
        peer: facts.peer_id,
        policy: u8::from(facts.is_mutual_tls()),
        status: 0,
        flags: 0,
        grpc: 0,
    }
}

/// The gRPC status of a finished exchange, if it was gRPC.
fn grpc_status(exchange: &Exchange) -> Option<u8> {
    if !grpc::is_grpc(&exchange.request.headers) {
        return None;
    }
    let trailers = &exchange.response_body.trailers;
    let value =
        trailers.get_known(Known::GrpcStatus).or_else(|| exchange.response.headers.get_known(Known::GrpcStatus))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}
