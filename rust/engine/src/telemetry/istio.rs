//! Istio's standard metrics (Istio, "Istio Standard Metrics"), of requests, of their messages and of connections.
//!
//! A request finds its series by a key of small integers; the strings of the labels are made once, when a series is new.
//! Where the configuration gives some metrics other labels than others, a request has several series, each of some
//! metrics. Only where a label depends on what a client says are its strings made for each request.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use pymesh_model::stats::{LabelValue, Metric, Metrics, Stats};

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

/// Names and values, in the order in which they are written.
pub type Labels = Vec<(Arc<str>, Arc<str>)>;

/// All that is counted under one set of labels.
#[derive(Debug)]
pub struct Series {
    /// What tells it from others.
    pub labels: Labels,
    /// What is counted here; others have other labels.
    pub metrics: Metrics,
    /// How much.
    pub counts: Counts,
}

/// The numbers of a [`Series`].
#[derive(Debug)]
pub enum Counts {
    /// Of requests.
    Requests(Box<RequestCounts>),
    /// Of gRPC's messages.
    Messages(MessageCounts),
    /// Of connections.
    Connections(ConnectionCounts),
}

/// What is counted together, under the same labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// When a request is over.
    Requests,
    /// While a request of gRPC lasts.
    Messages,
    /// While a connection lasts.
    Connections,
}

impl Kind {
    /// Its metrics.
    pub fn metrics(self) -> &'static [Metric] {
        match self {
            Kind::Requests => &[Metric::Requests, Metric::RequestDuration, Metric::RequestBytes, Metric::ResponseBytes],
            Kind::Messages => &[Metric::RequestMessages, Metric::ResponseMessages],
            Kind::Connections => {
                &[Metric::ConnectionsOpened, Metric::ConnectionsClosed, Metric::SentBytes, Metric::ReceivedBytes]
            }
        }
    }
}

impl Counts {
    fn none(kind: Kind) -> Counts {
        match kind {
            Kind::Requests => Counts::Requests(Box::default()),
            Kind::Messages => Counts::Messages(MessageCounts::default()),
            Kind::Connections => Counts::Connections(ConnectionCounts::default()),
        }
    }

    /// What they are of.
    pub fn kind(&self) -> Kind {
        match self {
            Counts::Requests(_) => Kind::Requests,
            Counts::Messages(_) => Kind::Messages,
            Counts::Connections(_) => Kind::Connections,
        }
    }
}

/// `istio_requests_total` and what goes with it.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct RequestCounts {
    pub requests: Counter,
    pub duration: Histogram,
    pub request_bytes: Histogram,
    pub response_bytes: Histogram,
}

/// `istio_request_messages_total`, `istio_response_messages_total`.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct MessageCounts {
    pub request: Counter,
    pub response: Counter,
}

/// `istio_tcp_*`.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct ConnectionCounts {
    pub opened: Counter,
    pub closed: Counter,
    pub sent_bytes: Counter,
    pub received_bytes: Counter,
}

impl Series {
    fn request(&self, request: &Request) {
        let Counts::Requests(counts) = &self.counts else { return };
        counts.requests.inc();
        counts.duration.observe_milli(request.duration_micros);
        counts.request_bytes.observe_milli(request.request_bytes.saturating_mul(1000));
        counts.response_bytes.observe_milli(request.response_bytes.saturating_mul(1000));
    }

    fn connection(&self, add: impl Fn(&ConnectionCounts)) {
        if let Counts::Connections(counts) = &self.counts {
            add(counts);
        }
    }
}

/// A finished request.
pub(crate) struct Request {
    pub duration_micros: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// The series that something counts in as long as it lasts: a connection, or a request of gRPC.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counting(Arc<[Arc<Series>]>);

impl Counting {
    /// Messages of gRPC, to and from the endpoint.
    pub fn messages(&self, request: u64, response: u64) {
        for series in &*self.0 {
            if let Counts::Messages(counts) = &series.counts {
                counts.request.add(request);
                counts.response.add(response);
            }
        }
    }

    pub fn opened(&self) {
        self.0.iter().for_each(|series| series.connection(|counts| counts.opened.inc()));
    }

    pub fn closed(&self) {
        self.0.iter().for_each(|series| series.connection(|counts| counts.closed.inc()));
    }

    /// To whoever has connected.
    pub fn sent(&self, octets: u64) {
        self.0.iter().for_each(|series| series.connection(|counts| counts.sent_bytes.add(octets)));
    }

    pub fn received(&self, octets: u64) {
        self.0.iter().for_each(|series| series.connection(|counts| counts.received_bytes.add(octets)));
    }
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
    /// Where the configuration of what is counted lies; 0: the standard.
    pub stats: usize,
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
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// Where the strings of labels come from.
pub(crate) trait Source {
    /// The standard's labels.
    fn labels(&self) -> Labels;
    /// What a label of the configuration says.
    fn value(&self, value: &LabelValue) -> Arc<str>;
}

/// One worker's way to its series.
#[derive(Default)]
pub(crate) struct IstioMetrics {
    standard: Arc<Stats>,
    fast: HashMap<SeriesKey, Vec<Arc<Series>>, BuildHasherDefault<Mix>>,
    /// Likewise; what an answer says is no part of the key.
    messages: HashMap<SeriesKey, Counting, BuildHasherDefault<Mix>>,
    by_labels: HashMap<(Labels, Metrics, Kind), Arc<Series>>,
    shard: Arc<Shard>,
}

/// Most series of one worker. Labels come from configuration and certificates of the mesh, not from clients, so this is
/// far above what a mesh needs; a label that a configuration makes of what clients say ends here.
const MOST_SERIES: usize = 20_000;

impl IstioMetrics {
    pub fn new(shard: Arc<Shard>) -> Self {
        IstioMetrics { shard, ..IstioMetrics::default() }
    }

    /// Keys may mean something else after a change of configuration.
    pub fn forget_keys(&mut self) {
        self.fast.clear();
        self.messages.clear();
    }

    /// Counts a request whose series are known; false if they are not.
    pub fn count(&self, key: &SeriesKey, stats: Option<&Stats>, request: &Request) -> bool {
        if stats.is_some_and(|stats| !stats.is_fixed()) {
            return false;
        }
        let Some(series) = self.fast.get(key) else { return false };
        series.iter().for_each(|series| series.request(request));
        true
    }

    /// Counts one whose series are not known by its key, or that has labels of its own.
    pub fn count_new(&mut self, key: SeriesKey, stats: Option<&Stats>, request: &Request, source: &impl Source) {
        let series = self.make(stats, Kind::Requests, source);
        series.iter().for_each(|series| series.request(request));
        if stats.is_none_or(Stats::is_fixed) {
            self.fast.insert(key, series);
        }
    }

    /// The series for a connection. There are fewer of them than of requests: their labels are made for each.
    pub fn connection(&mut self, stats: Option<&Stats>, source: &impl Source) -> Counting {
        Counting(self.make(stats, Kind::Connections, source).into())
    }

    /// The series for the messages of a request, if they are known by its key.
    pub fn known_messages(&self, key: &SeriesKey) -> Option<Counting> {
        self.messages.get(key).cloned()
    }

    /// Those that are not, or that have labels of their own.
    pub fn messages(&mut self, key: SeriesKey, stats: Option<&Stats>, source: &impl Source) -> Counting {
        let counting = Counting(self.make(stats, Kind::Messages, source).into());
        if stats.is_none_or(Stats::is_fixed) {
            self.messages.insert(key, counting.clone());
        }
        counting
    }

    fn make(&mut self, stats: Option<&Stats>, kind: Kind, source: &impl Source) -> Vec<Arc<Series>> {
        let standard = self.standard.clone();
        let groups = &stats.unwrap_or(&standard).groups;
        let mut found = Vec::with_capacity(1);
        for group in groups.iter().filter(|group| kind.metrics().iter().any(|metric| group.metrics.has(*metric))) {
            let mut labels = source.labels();
            for label in &group.labels {
                let known = labels.iter().position(|(name, _)| *name == label.name);
                match (&label.value, known) {
                    (None, Some(at)) => drop(labels.remove(at)),
                    (None, None) => {}
                    (Some(value), Some(at)) => {
                        if let Some(label) = labels.get_mut(at) {
                            label.1 = source.value(value);
                        }
                    }
                    (Some(value), None) => labels.push((label.name.clone(), source.value(value))),
                }
            }
            found.extend(self.series(labels, group.metrics, kind));
        }
        found
    }

    fn series(&mut self, labels: Labels, metrics: Metrics, kind: Kind) -> Option<Arc<Series>> {
        let key = (labels, metrics, kind);
        if let Some(known) = self.by_labels.get(&key) {
            return Some(known.clone());
        }
        if self.by_labels.len() >= MOST_SERIES {
            return None;
        }
        let series = Arc::new(Series { labels: key.0.clone(), metrics, counts: Counts::none(kind) });
        self.by_labels.insert(key, series.clone());
        self.shard.series.lock().unwrap_or_else(PoisonError::into_inner).push(series.clone());
        Some(series)
    }
}
