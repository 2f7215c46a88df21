//! The way of spans to their collector: a queue for each, which is sent as a whole through the proxy's own clusters.
//!
//! The first span that waits sets a clock; when [`INTERVAL`] has passed, or [`BATCH`] spans wait, they are sent as one
//! `ExportTraceServiceRequest`, over gRPC or HTTP. One export is under way at a time. A collector that does not answer,
//! refuses, or is slower than spans come costs spans and nothing else: an export that fails is not repeated, and what
//! does not fit into the queue is dropped; both are counted.
//!
//! # States
//! gathering → (its time has come, no export under way) → exporting and gathering → (told how that ended) → gathering, or
//! gone if nothing waits. A queue is made for the first span and goes with the last.

use std::sync::Arc;
use std::time::Duration;

use pymesh_http::RequestHead;
use pymesh_model::tracing::SpanExporter;

use super::span::text_attribute;
use crate::base::grpc;
use crate::base::protobuf::Message;
use crate::base::slab::Key;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::exchange::forward::decimal;
use crate::exchange::{Exchange, ExchangeKey, Owner, Question};
use crate::route;
use crate::telemetry::stats::TracingStats;

pub(crate) type SpanQueueKey = Key<SpanQueue>;

/// How long a span waits for others.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many are not kept waiting.
const BATCH: usize = 512;
/// `spans` of a `ScopeSpans`.
const SPANS: u32 = 2;
const GRPC_PATH: &[u8] = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Octets of a collector's answer that are looked at.
const KEPT: usize = 4096;

/// Spans of one worker on their way to one collector.
pub(crate) struct SpanQueue {
    config: Arc<SpanExporter>,
    stats: Arc<TracingStats>,
    /// Fields of a `ScopeSpans`.
    spans: Message,
    count: usize,
    /// The export under way, and how many spans it has.
    exporting: Option<(ExchangeKey, usize)>,
    due: Time,
}

impl Engine {
    /// Puts a span into the queue of its collector.
    pub(super) fn queue_span(&mut self, config: &Arc<SpanExporter>, write: &dyn Fn(&mut Message)) {
        let key = self.span_queue(config);
        let Some(queue) = self.span_queues.get_mut(key) else { return };
        if queue.count >= config.queue {
            return queue.stats.spans_dropped.inc();
        }
        queue.spans.message(SPANS, write);
        queue.count += 1;
        if queue.count == 1 {
            queue.due = self.now + INTERVAL;
        }
        if queue.count == BATCH {
            queue.due = self.now;
        }
        let due = queue.due;
        self.timers.arm_span_queue(key, due);
    }

    fn span_queue(&mut self, config: &Arc<SpanExporter>) -> SpanQueueKey {
        let is_it = |queue: &SpanQueue| Arc::ptr_eq(&queue.config, config) || queue.config == *config;
        let found = self.span_queues.keys().find(|key| self.span_queues.get(*key).is_some_and(is_it));
        found.unwrap_or_else(|| {
            let stats = self.options.hub.tracing(self.options.worker);
            let (config, spans) = (config.clone(), Message::default());
            let queue = SpanQueue { config, stats, spans, count: 0, exporting: None, due: Time::NEVER };
            self.span_queues.insert_with(|_| queue)
        })
    }

    /// Time has come for a queue.
    pub(crate) fn on_span_queue_due(&mut self, index: usize) {
        let Some(key) = self.span_queues.key_at(index) else { return };
        let Some(queue) = self.span_queues.get(key).filter(|queue| queue.exporting.is_none()) else { return };
        if queue.due > self.now {
            let due = queue.due;
            return self.timers.arm_span_queue(key, due);
        }
        self.export_spans(key);
    }

    fn export_spans(&mut self, key: SpanQueueKey) {
        let Some(queue) = self.span_queues.get_mut(key) else { return };
        let config = queue.config.clone();
        let stats = queue.stats.clone();
        let (spans, count) = (std::mem::take(&mut queue.spans), std::mem::take(&mut queue.count));
        let collector = &config.collector;
        let request = request(&config, spans);
        let body = if collector.path.is_none() { grpc::frame(&request) } else { request };
        let question = Question {
            cluster: &collector.cluster,
            timeout: collector.timeout,
            keep: KEPT,
            tells_the_way: false,
            body: &body,
        };
        let exchange = self.ask(Owner::Spans(key), &question, |head| write_head(head, &config, body.len()));
        match exchange {
            Some(exchange) => {
                if let Some(queue) = self.span_queues.get_mut(key) {
                    queue.exporting = Some((exchange, count));
                }
            }
            None => {
                stats.spans_dropped.add(count as u64);
                self.rest_span_queue(key);
            }
        }
    }

    /// An export is over.
    pub(crate) fn on_spans_exported(&mut self, key: SpanQueueKey, exchange_key: ExchangeKey, exchange: &mut Exchange) {
        let Some(queue) = self.span_queues.get_mut(key) else { return };
        let Some((_, count)) = queue.exporting.take_if(|(exporting, _)| *exporting == exchange_key) else { return };
        let is_grpc = queue.config.collector.path.is_none();
        let is_taken = exchange.take_outcome().is_ok_and(|told| match is_grpc {
            true => grpc::message(&told.head, &told.body, &told.trailers).is_some(),
            false => (200..300).contains(&told.head.status),
        });
        match is_taken {
            true => queue.stats.spans_sent.add(count as u64),
            false => queue.stats.spans_dropped.add(count as u64),
        }
        self.rest_span_queue(key);
    }

    /// It waits for its time again, or is not needed any more.
    fn rest_span_queue(&mut self, key: SpanQueueKey) {
        let Some(queue) = self.span_queues.get(key) else { return };
        if queue.count == 0 {
            self.span_queues.remove(key);
            return;
        }
        let due = queue.due;
        self.timers.arm_span_queue(key, due);
    }
}

/// An `ExportTraceServiceRequest`.
fn request(config: &SpanExporter, spans: Message) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |of_resource| {
        of_resource.message(1, |resource| {
            text_attribute(resource, 1, "service.name", config.service_name.as_bytes());
            text_attribute(resource, 1, "telemetry.sdk.language", b"rust");
            text_attribute(resource, 1, "telemetry.sdk.name", b"pymesh");
            text_attribute(resource, 1, "telemetry.sdk.version", env!("CARGO_PKG_VERSION").as_bytes());
        });
        of_resource.message(2, |of_scope| {
            of_scope.message(1, |scope| {
                scope.text(1, b"pymesh");
                scope.text(2, env!("CARGO_PKG_VERSION").as_bytes());
            });
            of_scope.append(spans);
        });
    });
    request.into_octets()
}

fn write_head(head: &mut RequestHead, config: &SpanExporter, length: usize) {
    let collector = &config.collector;
    match &collector.path {
        Some(path) => {
            head.set_method(b"POST");
            head.set_authority(collector.authority.as_bytes());
            head.set_path(path.as_bytes());
            head.headers.append(b"content-type", b"application/x-protobuf");
            head.headers.append(b"content-length", decimal(length as u64).as_bytes());
        }
        None => route::grpc::write_head(head, &collector.authority, GRPC_PATH, collector.timeout),
    }
    for (name, value) in &collector.headers {
        head.headers.append(name.as_bytes(), value.as_bytes());
    }
}
