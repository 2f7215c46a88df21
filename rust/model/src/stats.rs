//! Istio's metrics, and what is counted otherwise than its standard says (`stats.PluginConfig`).

use std::sync::Arc;

use crate::format::Operator;

/// One of Istio's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Metric {
    Requests,
    RequestDuration,
    RequestBytes,
    ResponseBytes,
    RequestMessages,
    ResponseMessages,
    ConnectionsOpened,
    ConnectionsClosed,
    SentBytes,
    ReceivedBytes,
}

impl Metric {
    /// Every one.
    pub const ALL: [Metric; 10] = [
        Metric::Requests,
        Metric::RequestDuration,
        Metric::RequestBytes,
        Metric::ResponseBytes,
        Metric::RequestMessages,
        Metric::ResponseMessages,
        Metric::ConnectionsOpened,
        Metric::ConnectionsClosed,
        Metric::SentBytes,
        Metric::ReceivedBytes,
    ];

    /// As configurations call it; Prometheus has `istio_` before it.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Requests => "requests_total",
            Metric::RequestDuration => "request_duration_milliseconds",
            Metric::RequestBytes => "request_bytes",
            Metric::ResponseBytes => "response_bytes",
            Metric::RequestMessages => "request_messages_total",
            Metric::ResponseMessages => "response_messages_total",
            Metric::ConnectionsOpened => "tcp_connections_opened_total",
            Metric::ConnectionsClosed => "tcp_connections_closed_total",
            Metric::SentBytes => "tcp_sent_bytes_total",
            Metric::ReceivedBytes => "tcp_received_bytes_total",
        }
    }
}

/// Some of Istio's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Metrics(u16);

impl Metrics {
    /// All of them.
    pub const ALL: Metrics = Metrics(u16::MAX);

    /// This one as well.
    pub fn with(self, metric: Metric) -> Metrics {
        Metrics(self.0 | 1 << metric as u8)
    }

    /// These as well.
    pub fn and(self, others: Metrics) -> Metrics {
        Metrics(self.0 | others.0)
    }

    /// Whether it is among them.
    pub fn has(self, metric: Metric) -> bool {
        self.0 & 1 << metric as u8 != 0
    }
}

/// What is counted, and by which labels. A metric that is in no group is not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// None has a metric of another.
    pub groups: Vec<MetricGroup>,
}

impl Default for Stats {
    /// Istio's standard.
    fn default() -> Self {
        Stats { groups: vec![MetricGroup { metrics: Metrics::ALL, labels: Vec::new() }] }
    }
}

impl Stats {
    /// Whether one of these metrics is counted.
    pub fn counts(&self, metrics: &[Metric]) -> bool {
        self.groups.iter().any(|group| metrics.iter().any(|metric| group.metrics.has(*metric)))
    }

    /// Whether the labels depend on nothing but what the standard's depend on.
    pub fn is_fixed(&self) -> bool {
        let mut values = self.groups.iter().flat_map(|group| &group.labels).filter_map(|label| label.value.as_ref());
        values.all(|value| value.sources.is_empty())
    }
}

/// Metrics that have the same labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricGroup {
    /// Which.
    pub metrics: Metrics,
    /// What becomes of the standard's labels.
    pub labels: Vec<LabelOverride>,
}

/// A label that is replaced or added, or (without a value) removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelOverride {
    /// Its name.
    pub name: Arc<str>,
    /// What it says.
    pub value: Option<LabelValue>,
}

/// The first of the sources that is there, else the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelValue {
    /// In order.
    pub sources: Vec<Operator>,
    /// In their place.
    pub otherwise: Arc<str>,
}
