//! OTLP: the way of spans, and of records of access logs, to their collector: a queue for each, which is sent as a whole
//! through the proxy's own clusters.
//!
//! The first that waits sets a clock; when [`INTERVAL`] has passed, or [`BATCH`] wait, they are sent as one
//! `ExportTraceServiceRequest` or `ExportLogsServiceRequest`, over gRPC or HTTP. One export is under way at a time. A
//! collector that does not answer, refuses, or is slower than they come costs spans and records and nothing else: an
//! export that fails is not repeated, and what does not fit into the queue is dropped; both are counted.
//!
//! # States
//! gathering → (its time has come, no export under way) → exporting and gathering → (told how that ended) → gathering, or
//! gone if nothing waits. A queue is made for the first span or record and goes with the last.

use std::sync::Arc;
use std::time::Duration;

use pymesh_http::RequestHead;
use pymesh_model::otlp::{Exporter, Signal};
use pymesh_model::Node;

use crate::base::grpc;
use crate::base::protobuf::{sanitized, Message};
use crate::base::slab::Key;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::exchange::forward::decimal;
use crate::exchange::{Exchange, ExchangeKey, Owner, Question};
use crate::route;
use crate::telemetry::stats::{RecordStats, TracingStats};

pub(crate) type OtlpQueueKey = Key<OtlpQueue>;

/// How long one waits for others.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many are not kept waiting.
const BATCH: usize = 512;
/// So many octets wait at most: a collector takes messages of gRPC's usual 4 MiB.
const MOST_OCTETS: usize = 2 << 20;
/// `spans` of a `ScopeSpans`, and `log_records` of a `ScopeLogs`.
const ITEMS: u32 = 2;
const TRACES_PATH: &[u8] = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const LOGS_PATH: &[u8] = b"/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// Octets of a collector's answer that are looked at.
const KEPT: usize = 4096;

/// What one worker has for one collector.
pub(crate) struct OtlpQueue {
    config: Arc<Exporter>,
    stats: Stats,
    /// Fields of a `ScopeSpans` or `ScopeLogs`.
    items: Message,
    count: usize,
    /// The export under way, and how many it has.
    exporting: Option<(ExchangeKey, usize)>,
    due: Time,
}

/// What has become of them.
#[derive(Clone)]
enum Stats {
    Spans(Arc<TracingStats>),
    Records(Arc<RecordStats>),
}

impl Stats {
    fn sent(&self, count: usize) {
        match self {
            Stats::Spans(stats) => stats.spans_sent.add(count as u64),
            Stats::Records(stats) => stats.logs_written.add(count as u64),
        }
    }

    fn dropped(&self, count: usize) {
        match self {
            Stats::Spans(stats) => stats.spans_dropped.add(count as u64),
            Stats::Records(stats) => stats.logs_dropped.add(count as u64),
        }
    }
}

impl Engine {
    /// Puts the records that this turn's requests and connections have left into the queues of their collectors.
    pub(crate) fn queue_records(&mut self) {
        if self.telemetry.has_records() {
            for (exporter, record) in self.telemetry.take_records() {
                self.queue_otlp(&exporter, |item| item.append(record));
            }
        }
    }

    /// Puts a span or a record into the queue of its collector.
    pub(crate) fn queue_otlp(&mut self, config: &Arc<Exporter>, write: impl FnOnce(&mut Message)) {
        let key = self.otlp_queue(config);
        let Some(queue) = self.otlp_queues.get_mut(key) else { return };
        if queue.count >= config.queue || queue.items.len() >= MOST_OCTETS {
            return queue.stats.dropped(1);
        }
        queue.items.message(ITEMS, write);
        queue.count += 1;
        if queue.count == 1 {
            queue.due = self.now + INTERVAL;
        }
        if queue.count == BATCH {
            queue.due = self.now;
        }
        let due = queue.due;
        self.timers.arm_otlp_queue(key, due);
    }

    fn otlp_queue(&mut self, config: &Arc<Exporter>) -> OtlpQueueKey {
        let is_it = |queue: &OtlpQueue| Arc::ptr_eq(&queue.config, config) || queue.config == *config;
        let found = self.otlp_queues.keys().find(|key| self.otlp_queues.get(*key).is_some_and(is_it));
        found.unwrap_or_else(|| {
            let (hub, worker) = (&self.options.hub, self.options.worker);
            let stats = match config.signal {
                Signal::Traces => Stats::Spans(hub.tracing(worker)),
                Signal::Logs { .. } => Stats::Records(hub.otlp_log(worker)),
            };
            let (config, items) = (config.clone(), Message::default());
            let queue = OtlpQueue { config, stats, items, count: 0, exporting: None, due: Time::NEVER };
            self.otlp_queues.insert_with(|_| queue)
        })
    }

    /// Time has come for a queue.
    pub(crate) fn on_otlp_queue_due(&mut self, index: usize) {
        let Some(key) = self.otlp_queues.key_at(index) else { return };
        let Some(queue) = self.otlp_queues.get(key).filter(|queue| queue.exporting.is_none()) else { return };
        if queue.due > self.now {
            let due = queue.due;
            return self.timers.arm_otlp_queue(key, due);
        }
        self.export(key);
    }

    fn export(&mut self, key: OtlpQueueKey) {
        let node = self.snapshot.node.clone();
        let Some(queue) = self.otlp_queues.get_mut(key) else { return };
        let config = queue.config.clone();
        let stats = queue.stats.clone();
        let (items, count) = (std::mem::take(&mut queue.items), std::mem::take(&mut queue.count));
        let collector = &config.collector;
        let request = request(&config, &node, items);
        let body = if collector.path.is_none() { grpc::frame(&request) } else { request };
        let question = Question {
            cluster: &collector.cluster,
            timeout: collector.timeout,
            keep: KEPT,
            tells_the_way: false,
            body: &body,
        };
        let exchange = self.ask(Owner::Export(key), &question, |head| write_head(head, &config, body.len()));
        match exchange {
            Some(exchange) => {
                if let Some(queue) = self.otlp_queues.get_mut(key) {
                    queue.exporting = Some((exchange, count));
                }
            }
            None => {
                stats.dropped(count);
                self.rest_otlp_queue(key);
            }
        }
    }

    /// An export is over.
    pub(crate) fn on_exported(&mut self, key: OtlpQueueKey, exchange_key: ExchangeKey, exchange: &mut Exchange) {
        let Some(queue) = self.otlp_queues.get_mut(key) else { return };
        let Some((_, count)) = queue.exporting.take_if(|(exporting, _)| *exporting == exchange_key) else { return };
        let is_grpc = queue.config.collector.path.is_none();
        let is_taken = exchange.take_outcome().is_ok_and(|told| match is_grpc {
            true => grpc::message(&told.head, &told.body, &told.trailers).is_some(),
            false => (200..300).contains(&told.head.status),
        });
        match is_taken {
            true => queue.stats.sent(count),
            false => queue.stats.dropped(count),
        }
        self.rest_otlp_queue(key);
    }

    /// It waits for its time again, or is not needed any more.
    fn rest_otlp_queue(&mut self, key: OtlpQueueKey) {
        let Some(queue) = self.otlp_queues.get(key) else { return };
        if queue.count == 0 {
            self.otlp_queues.remove(key);
            return;
        }
        let due = queue.due;
        self.timers.arm_otlp_queue(key, due);
    }
}

/// An `ExportTraceServiceRequest` or `ExportLogsServiceRequest`, which have the same fields.
fn request(config: &Exporter, node: &Node, items: Message) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |of_resource| {
        of_resource.message(1, |resource| {
            let mut say = |key: &str, value: &str| text_attribute(resource, 1, key, value.as_bytes());
            if let Signal::Logs { labelled: Some(name) } = &config.signal {
                say("log_name", name);
                say("zone_name", &node.zone);
                say("cluster_name", &node.cluster);
                say("node_name", &node.id);
            }
            config.resource.iter().for_each(|(key, value)| say(key, value));
            if config.signal == Signal::Traces {
                say("telemetry.sdk.language", "rust");
                say("telemetry.sdk.name", "pymesh");
                say("telemetry.sdk.version", env!("CARGO_PKG_VERSION"));
            }
        });
        of_resource.message(2, |of_scope| {
            if config.signal == Signal::Traces {
                of_scope.message(1, |scope| {
                    scope.text(1, b"pymesh");
                    scope.text(2, env!("CARGO_PKG_VERSION").as_bytes());
                });
            }
            of_scope.append(items);
        });
    });
    request.into_octets()
}

/// A `KeyValue` whose value is text, as a field of this number.
pub(crate) fn text_attribute(message: &mut Message, field: u32, key: &str, value: &[u8]) {
    message.message(field, |pair| {
        pair.text(1, key.as_bytes());
        pair.message(2, |any| text_value(any, value));
    });
}

/// The fields of an `AnyValue` that is text.
pub(crate) fn text_value(any: &mut Message, value: &[u8]) {
    any.chosen_octets(1, &sanitized(value));
}

fn write_head(head: &mut RequestHead, config: &Exporter, length: usize) {
    let collector = &config.collector;
    let method = match config.signal {
        Signal::Traces => TRACES_PATH,
        Signal::Logs { .. } => LOGS_PATH,
    };
    match &collector.path {
        Some(path) => {
            head.set_method(b"POST");
            head.set_authority(collector.authority.as_bytes());
            head.set_path(path.as_bytes());
            head.headers.append(b"content-type", b"application/x-protobuf");
            head.headers.append(b"content-length", decimal(length as u64).as_bytes());
        }
        None => route::grpc::write_head(head, &collector.authority, method, collector.timeout),
    }
    for (name, value) in &collector.headers {
        head.headers.append(name.as_bytes(), value.as_bytes());
    }
}
