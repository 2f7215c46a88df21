//! Where finished spans and records of access logs go: a collector of OpenTelemetry, which is a cluster like any other.

use std::sync::Arc;
use std::time::Duration;

/// What is told to whom. Equal ones share a queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exporter {
    /// What it takes.
    pub signal: Signal,
    /// How it is asked to take them.
    pub collector: Collector,
    /// Attributes of the resource, beside those of the [`Signal`].
    pub resource: Vec<(Box<str>, Box<str>)>,
    /// What may wait of a worker's; what is more is dropped, and counted.
    pub queue: usize,
}

/// A signal of OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Records of access logs.
    Logs {
        /// The resource says which log it is and whose, in Envoy's words; `None`: it does not.
        labelled: Option<Box<str>>,
    },
}

/// A collector of OTLP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collector {
    /// The cluster that it is.
    pub cluster: Arc<str>,
    /// By which name it is asked.
    pub authority: Box<str>,
    /// `None`: OTLP over gRPC; otherwise the path of OTLP over HTTP.
    pub path: Option<Box<str>>,
    /// How long one export may take.
    pub timeout: Duration,
    /// Headers that each export carries, such as a key of whoever runs the collector.
    pub headers: Vec<(Box<str>, Box<str>)>,
}
