//! Istio's standard metrics (Istio, "Istio Standard Metrics").
//!
//! A request finds its series by a key of small integers; the strings of the
//! labels are made once, when a series is new.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use super::stats::Counter;

/// Upper bounds of the duration buckets in milliseconds and of the size
/// buckets in octets: Envoy's defaults, which Istio's dashboards expect.
pub const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A histogram over [`BUCKETS`].
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative; the last one is above every bound.
    pub buckets: [Counter; BUCKETS.len() + 1],
    /// In thousandths of the unit.
    pub sum_milli: Counter,
}

impl Histogram {
    fn observe_milli(&self, value: u64) {
        let unit = value as f64 / 1000.0;
        let at = BUCKETS.iter().position(|bound| unit <= *bound).unwrap_or(BUCKETS.len());
        if let Some(bucket) = self.buckets.get(at) {
            bucket.inc();
        }
        self.sum_milli.add(value);
    }
}

/// Label values in the order of [`LABELS`].
pub type Labels = Vec<Arc<str>>;

/// Label names of `istio_requests_total`.
pub const LABELS: [&str; 24] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "response_flags",
    "connection_security_policy",
];

/// All that is counted under one set of labels.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Series {
    pub labels: Labels,
    /// Empty unless the request was gRPC; a label of its own in the text.
    pub grpc_status: Arc<str>,
    pub requests: Counter,
    pub duration: Histogram,
    pub request_bytes: Histogram,
    pub response_bytes: Histogram,
}

/// The series of one worker, for the admin side to read.
#[derive(Debug, Default)]
pub struct Shard {
    series: Mutex<Vec<Arc<Series>>>,
}

impl Shard {
    /// Every series so far.
    pub fn series(&self) -> Vec<Arc<Series>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What tells series apart, without strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SeriesKey {
    pub direction: u8,
    pub cluster: u64,
    pub host: u64,
    pub peer: u64,
    pub status: u16,
    pub flags: u32,
    pub grpc: u8,
    pub policy: u8,
}

/// A cheap hash for keys that no client chooses freely.
#[derive(Default)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }
    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// One worker's way to its series.
pub(crate) struct IstioMetrics {
    fast: HashMap<SeriesKey, Arc<Series>, BuildHasherDefault<Mix>>,
    by_labels: HashMap<(Labels, Arc<str>), Arc<Series>>,
    shard: Arc<Shard>,
}

/// Most series of one worker. Labels come from configuration and certificates
/// of the mesh, not from clients, so this is far above what a mesh needs.
const MOST_SERIES: usize = 20_000;

impl IstioMetrics {
    pub fn new(shard: Arc<Shard>) -> Self {
        IstioMetrics { fast: HashMap::default(), by_labels: HashMap::new(), shard }
    }

    /// Keys may mean something else after a change of configuration.
    pub fn forget_keys(&mut self) {
        self.fast.clear();
    }

    /// Counts one request.
    pub fn count(
        &mut self,
        key: SeriesKey,
        duration_micros: u64,
        request_bytes: u64,
        response_bytes: u64,
        labels: impl FnOnce() -> (Labels, Arc<str>),
    ) {
        if !self.fast.contains_key(&key) {
            let (labels, grpc_status) = labels();
            let known = self.by_labels.get(&(labels.clone(), grpc_status.clone())).cloned();
            let series = match known {
                Some(series) => series,
                None if self.by_labels.len() >= MOST_SERIES => return,
                None => {
                    let series = Arc::new(Series {
                        labels: labels.clone(),
                        grpc_status: grpc_status.clone(),
                        requests: Counter::default(),
                        duration: Histogram::default(),
                        request_bytes: Histogram::default(),
                        response_bytes: Histogram::default(),
                    });
                    self.by_labels.insert((labels, grpc_status), series.clone());
                    self.shard.series.lock().unwrap_or_else(PoisonError::into_inner).push(series.clone());
                    series
                }
            };
            self.fast.insert(key, series);
        }
        let Some(series) = self.fast.get(&key) else { return };
        series.requests.inc();
        series.duration.observe_milli(duration_micros);
        series.request_bytes.observe_milli(request_bytes.saturating_mul(1000));
        series.response_bytes.observe_milli(response_bytes.saturating_mul(1000));
    }
}
