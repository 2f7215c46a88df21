//! Istio's metrics in the text exposition format: the series of all workers, added up.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use pymesh_engine::telemetry::istio::{Counts, Histogram, Series, Shard, BUCKETS};
use pymesh_model::stats::Metric;

use super::pages::escape;

/// Writes every metric that there is.
pub(super) fn write(out: &mut String, shards: &[Arc<Shard>]) {
    let mut merged: BTreeMap<(Metric, String), Sum> = BTreeMap::new();
    for series in shards.iter().flat_map(|shard| shard.series()) {
        let labels = labels(&series);
        let metrics = series.counts.kind().metrics().iter();
        for metric in metrics.filter(|metric| series.metrics.has(**metric)) {
            merged.entry((*metric, labels.clone())).or_default().add(&series, *metric);
        }
    }
    let mut current = None;
    for ((metric, labels), sum) in &merged {
        let name = format!("istio_{}", metric.name());
        if current.replace(*metric) != Some(*metric) {
            let kind = if is_histogram(*metric) { "histogram" } else { "counter" };
            let _infallible = writeln!(out, "# TYPE {name} {kind}");
        }
        match is_histogram(*metric) {
            true => histogram(out, &name, labels, sum),
            false => {
                let _infallible = writeln!(out, "{name}{{{labels}}} {}", sum.count);
            }
        }
    }
}

fn is_histogram(metric: Metric) -> bool {
    matches!(metric, Metric::RequestDuration | Metric::RequestBytes | Metric::ResponseBytes)
}

/// One metric of all workers under one set of labels.
#[derive(Default)]
struct Sum {
    count: u64,
    buckets: [u64; BUCKETS.len() + 1],
    sum: f64,
}

impl Sum {
    fn add(&mut self, series: &Series, metric: Metric) {
        match (&series.counts, metric) {
            (Counts::Requests(counts), Metric::RequestDuration) => self.observed(&counts.duration),
            (Counts::Requests(counts), Metric::RequestBytes) => self.observed(&counts.request_bytes),
            (Counts::Requests(counts), Metric::ResponseBytes) => self.observed(&counts.response_bytes),
            (Counts::Requests(counts), _) => self.count += counts.requests.value(),
            (Counts::Messages(counts), Metric::ResponseMessages) => self.count += counts.response.value(),
            (Counts::Messages(counts), _) => self.count += counts.request.value(),
            (Counts::Connections(counts), Metric::ConnectionsClosed) => self.count += counts.closed.value(),
            (Counts::Connections(counts), Metric::SentBytes) => self.count += counts.sent_bytes.value(),
            (Counts::Connections(counts), Metric::ReceivedBytes) => self.count += counts.received_bytes.value(),
            (Counts::Connections(counts), _) => self.count += counts.opened.value(),
        }
    }

    fn observed(&mut self, histogram: &Histogram) {
        for (total, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *total += bucket.value();
        }
        self.sum += histogram.sum_milli.value() as f64 / 1000.0;
    }
}

fn histogram(out: &mut String, name: &str, labels: &str, sum: &Sum) {
    let separator = if labels.is_empty() { "" } else { "," };
    let mut cumulative = 0;
    for (at, bucket) in sum.buckets.iter().enumerate() {
        cumulative += bucket;
        let bound = BUCKETS.get(at).map_or("+Inf".to_owned(), f64::to_string);
        let _infallible = writeln!(out, "{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {cumulative}");
    }
    let _infallible = writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {cumulative}", sum.sum);
}

fn labels(series: &Series) -> String {
    let labels = series.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
    labels.collect::<Vec<_>>().join(",")
}
