//! Spans in the form of OTLP (`opentelemetry.proto.trace.v1.Span`), with the names and attributes that Envoy gives them.

use std::borrow::Cow;

use pymesh_http::{Known, RequestHead, Version};
use pymesh_model::listener::Direction;
use pymesh_model::tracing::{TagValue, Tracing};
use pymesh_model::Node;

use super::{tags, Attempt, Trace};
use crate::base::protobuf::Message;
use crate::base::time::{Time, WallClock};
use crate::exchange::Exchange;
use crate::listener::HttpRuntime;
use crate::otlp::text_attribute;
use crate::route::matcher::is_grpc;
use crate::telemetry::Flags;

/// `SpanKind`.
const SERVER: u64 = 2;
const CLIENT: u64 = 3;
/// `Status.StatusCode`.
const ERROR: u64 = 2;
/// Octets of a value that a client has chosen.
const LONGEST_VALUE: usize = 1024;

/// A request that is over, and what its spans say.
pub(super) struct Spans<'a> {
    pub exchange: &'a Exchange,
    pub trace: &'a Trace,
    pub tracing: &'a Tracing,
    pub http: &'a HttpRuntime,
    pub clock: WallClock,
    pub node: &'a Node,
    pub now: Time,
}

/// What came of a request or an attempt.
struct Outcome<'a> {
    /// 0 without an answer.
    status: u16,
    flags: Flags,
    grpc: Option<&'a [u8]>,
}

impl Spans<'_> {
    /// Writes the attempts' spans, then the request's.
    pub fn each(&self, mut write: impl FnMut(&dyn Fn(&mut Message))) {
        for (at, attempt) in self.trace.attempts.iter().enumerate() {
            write(&|span: &mut Message| self.attempt(span, at, attempt));
        }
        write(&|span: &mut Message| self.request(span));
    }

    /// Everything but the attributes. `ids` are its own and its parent's, `times` its beginning and end.
    fn frame(&self, span: &mut Message, ids: (u64, Option<u64>), name: &[u8], kind: u64, times: (Time, Time)) {
        span.octets(1, &self.trace.id.to_be_bytes());
        span.octets(2, &ids.0.to_be_bytes());
        span.text(3, cut(self.exchange.request.headers.get_known(Known::Tracestate).unwrap_or_default()));
        if let Some(parent) = ids.1 {
            span.octets(4, &parent.to_be_bytes());
        }
        span.text(5, name);
        span.number(6, kind);
        span.fixed64(7, self.clock.unix_nanos(times.0));
        span.fixed64(8, self.clock.unix_nanos(times.1));
    }

    fn operation(&self) -> Cow<'_, [u8]> {
        if let Some(told) = self.trace.operation.as_deref() {
            return cut(told).into();
        }
        let decorator = self.exchange.routed.as_ref().and_then(|routed| routed.route.decorator.as_ref());
        match decorator.map(|decorator| &*decorator.operation).filter(|operation| !operation.is_empty()) {
            Some(operation) => operation.as_bytes().into(),
            None if self.http.direction == Direction::Outbound => {
                [b"egress ", cut(self.exchange.request.authority())].concat().into()
            }
            None => b"ingress".into(),
        }
    }

    fn cluster(&self) -> &str {
        self.exchange.cluster_config.as_ref().map_or("", |cluster| &cluster.name)
    }

    /// How the request ended.
    fn outcome(&self) -> Outcome<'_> {
        let exchange = self.exchange;
        let trailers = exchange.response_body.trailers.get_known(Known::GrpcStatus);
        let status = trailers.or_else(|| exchange.response.headers.get_known(Known::GrpcStatus));
        Outcome {
            status: if exchange.has_response { exchange.response.status } else { 0 },
            flags: exchange.flags,
            grpc: status.filter(|_| is_grpc(&exchange.request)),
        }
    }

    fn request(&self, span: &mut Message) {
        let exchange = self.exchange;
        let head = &exchange.request;
        let header = |known| head.headers.get_known(known);
        // Without spans for attempts it is the one that asks.
        let is_client = self.http.direction == Direction::Outbound && !self.tracing.attempts;
        let kind = if is_client { CLIENT } else { SERVER };
        self.frame(span, (self.trace.span, self.trace.parent), &self.operation(), kind, (exchange.started, self.now));
        if let Some(id) = header(Known::XRequestId) {
            attribute(span, "guid:x-request-id", id);
        }
        attribute(span, "http.url", &self.url(head));
        attribute(span, "http.method", head.method_bytes());
        let cluster = head.headers.get(b"x-envoy-downstream-service-cluster").unwrap_or(b"-");
        attribute(span, "downstream_cluster", cluster);
        attribute(span, "user_agent", header(Known::UserAgent).unwrap_or(b"-"));
        attribute(span, "http.protocol", head.version.as_str().as_bytes());
        let peer = exchange.facts.as_ref().map(|facts| facts.direct_remote.ip().to_string()).unwrap_or_default();
        attribute(span, "peer.address", peer.as_bytes());
        attribute(span, "request_size", exchange.request_body.total.to_string().as_bytes());
        attribute(span, "response_size", exchange.bytes_sent.to_string().as_bytes());
        attribute(span, "node_id", self.node.id.as_bytes());
        if is_grpc(head) {
            attribute(span, "grpc.path", head.path());
            attribute(span, "grpc.authority", head.authority());
            attribute(span, "grpc.content_type", header(Known::ContentType).unwrap_or_default());
            if let Some(timeout) = header(Known::GrpcTimeout) {
                attribute(span, "grpc.timeout", timeout);
            }
        }
        if exchange.cluster_config.is_some() {
            self.upstream_cluster(span);
        }
        self.end(span, kind, &self.outcome());
    }

    fn attempt(&self, span: &mut Message, at: usize, attempt: &Attempt) {
        let ended = attempt.end.as_ref().map_or(self.now, |end| end.at);
        let name = format!("router {} egress", self.cluster());
        let ids = (attempt.span, Some(self.trace.span));
        self.frame(span, ids, name.as_bytes(), CLIENT, (attempt.started, ended));
        attribute(span, "http.protocol", attempt.version.map_or("-", Version::as_str).as_bytes());
        let current = self.exchange.endpoint.as_ref().map(|endpoint| endpoint.address);
        if let Some(upstream) = attempt.end.as_ref().map_or(current, |end| end.upstream) {
            let upstream = upstream.to_string();
            attribute(span, "upstream_address", upstream.as_bytes());
            attribute(span, "peer.address", upstream.as_bytes());
        }
        self.upstream_cluster(span);
        if at > 0 {
            attribute(span, "retry.count", at.to_string().as_bytes());
        }
        let outcome = match attempt.end.as_ref().map(|end| end.came_to) {
            None => Outcome { flags: Flags::NONE, ..self.outcome() },
            Some(Ok(status)) => {
                attribute(span, "canceled", b"true");
                Outcome { status, flags: Flags::NONE, grpc: None }
            }
            Some(Err(failure)) => {
                attribute(span, "error.reason", failure.reason().as_bytes());
                Outcome { status: 0, flags: failure.flag(), grpc: None }
            }
        };
        self.end(span, CLIENT, &outcome);
    }

    fn upstream_cluster(&self, span: &mut Message) {
        attribute(span, "upstream_cluster", self.cluster().as_bytes());
        attribute(span, "upstream_cluster.name", self.cluster().as_bytes());
    }

    /// What came of it, and what the configuration wants to be told.
    fn end(&self, span: &mut Message, kind: u64, outcome: &Outcome<'_>) {
        attribute(span, "component", b"proxy");
        attribute(span, "http.status_code", outcome.status.to_string().as_bytes());
        let flags = if outcome.flags.is_empty() { "-".to_owned() } else { outcome.flags.to_string() };
        attribute(span, "response_flags", flags.as_bytes());
        if let Some(status) = outcome.grpc {
            attribute(span, "grpc.status_code", status);
        }
        let is_bad_grpc = outcome.grpc.is_some_and(|status| status != b"0");
        if is_bad_grpc || outcome.status == 0 || outcome.status >= 500 {
            attribute(span, "error", b"true");
        }
        // What is the client's fault is no error of the server (OpenTelemetry, semantic conventions for HTTP spans).
        let least_error = if kind == CLIENT { 400 } else { 500 };
        if is_bad_grpc || outcome.status >= least_error {
            span.message(15, |status| status.number(3, ERROR));
        }
        let head = &self.exchange.request;
        for tag in tags(self.tracing, self.exchange) {
            match &tag.value {
                TagValue::Literal(value) => attribute(span, &tag.name, value.as_bytes()),
                TagValue::Header { name, default } => {
                    match head.headers.get(name.as_bytes()).unwrap_or(default.as_bytes()) {
                        [] => {}
                        value => attribute(span, &tag.name, value),
                    }
                }
            }
        }
    }

    fn url(&self, head: &RequestHead) -> Vec<u8> {
        let original = head.headers.get_known(Known::XEnvoyOriginalPath).unwrap_or(head.path());
        let path = original.get(..self.tracing.longest_path).unwrap_or(original);
        [head.scheme.as_str().as_bytes(), b"://", cut(head.authority()), path].concat()
    }
}

fn cut(value: &[u8]) -> &[u8] {
    value.get(..LONGEST_VALUE).unwrap_or(value)
}

/// A `KeyValue` whose value is text.
fn attribute(span: &mut Message, key: &str, value: &[u8]) {
    text_attribute(span, 9, key, cut(value));
}
