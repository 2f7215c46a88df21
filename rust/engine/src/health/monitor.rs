//! What became of the requests to one host.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use pymesh_model::outlier::OutlierDetection;

/// What became of a request, or of a connection (Envoy `Outlier::Result`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The host answered with this status.
    Answer(u16),
    /// There is a connection. What it is for is still to come.
    Connected,
    /// There is a connection, and nobody looks at what it is for.
    Relayed,
    /// It took too long.
    Timeout,
    /// There is no connection, or not any more.
    Failed,
}

/// Why a host is an outlier (Envoy `OutlierEjectionType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    SuccessRateLocalOrigin,
    FailurePercentage,
    FailurePercentageLocalOrigin,
}

/// At most one of each row of failures is full after one outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    gateway_failure: bool,
    server_error: bool,
    local_origin: bool,
}

impl Found {
    pub fn is_none(self) -> bool {
        self == Found::default()
    }

    /// In Envoy's order.
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        [
            (self.gateway_failure, Kind::ConsecutiveGatewayFailure),
            (self.server_error, Kind::Consecutive5xx),
            (self.local_origin, Kind::ConsecutiveLocalOriginFailure),
        ]
        .into_iter()
        .filter_map(|(is_full, kind)| is_full.then_some(kind))
    }
}

/// Where a success rate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The host's answers; without `split_external_local_origin_errors` everything.
    External = 0,
    /// What the network does.
    Local = 1,
}

/// Success rates of the last interval, by answers and by what the network does; negative if there were too few requests.
pub type SuccessRates = [f64; 2];

/// Counts of one host that all workers write.
#[derive(Debug)]
pub(super) struct Monitor {
    server_errors: AtomicU32,
    gateway_failures: AtomicU32,
    local_origin_failures: AtomicU32,
    rates: [Rate; 2],
}

impl Default for Monitor {
    fn default() -> Self {
        Monitor {
            server_errors: AtomicU32::new(0),
            gateway_failures: AtomicU32::new(0),
            local_origin_failures: AtomicU32::new(0),
            rates: [Rate::default(), Rate::default()],
        }
    }
}

impl Monitor {
    /// Counts an outcome. The rows that are full by it are returned, each once.
    pub fn put(&self, outcome: Outcome, detection: &OutlierDetection) -> Found {
        let is_split = detection.split_external_local_origin_errors;
        match (outcome, is_split) {
            (Outcome::Answer(status), _) => self.put_status(status, detection),
            (Outcome::Connected | Outcome::Relayed, true) => {
                self.rate(Origin::Local).count(true);
                self.local_origin_failures.store(0, Relaxed);
                Found::default()
            }
            (Outcome::Timeout | Outcome::Failed, true) => {
                self.rate(Origin::Local).count(false);
                let row = self.local_origin_failures.fetch_add(1, Relaxed).wrapping_add(1);
                let local_origin = row == detection.consecutive_local_origin_failure.failures;
                Found { local_origin, ..Found::default() }
            }
            // The layer above will say how it went.
            (Outcome::Connected, false) => Found::default(),
            (Outcome::Relayed, false) => self.put_status(200, detection),
            (Outcome::Timeout, false) => self.put_status(504, detection),
            (Outcome::Failed, false) => self.put_status(503, detection),
        }
    }

    fn put_status(&self, status: u16, detection: &OutlierDetection) -> Found {
        let is_error = (500..600).contains(&status);
        self.rate(Origin::External).count(!is_error);
        if !is_error {
            self.server_errors.store(0, Relaxed);
            self.gateway_failures.store(0, Relaxed);
            return Found::default();
        }
        let mut found = Found::default();
        if (502..505).contains(&status) {
            let row = self.gateway_failures.fetch_add(1, Relaxed).wrapping_add(1);
            found.gateway_failure = row == detection.consecutive_gateway_failure.failures;
        } else {
            self.gateway_failures.store(0, Relaxed);
        }
        let row = self.server_errors.fetch_add(1, Relaxed).wrapping_add(1);
        found.server_error = row == detection.consecutive_5xx.failures;
        found
    }

    /// A row begins anew once something came of it.
    pub fn forget(&self, kind: Kind) {
        match kind {
            Kind::Consecutive5xx => self.server_errors.store(0, Relaxed),
            Kind::ConsecutiveGatewayFailure => self.gateway_failures.store(0, Relaxed),
            Kind::ConsecutiveLocalOriginFailure => self.local_origin_failures.store(0, Relaxed),
            _ => {}
        }
    }

    /// A host that returns has a clean slate.
    pub fn forget_rows(&self) {
        for kind in [Kind::Consecutive5xx, Kind::ConsecutiveGatewayFailure, Kind::ConsecutiveLocalOriginFailure] {
            self.forget(kind);
        }
    }

    /// An interval is over; its counts can be read until the next one is.
    pub fn turn(&self) {
        self.rates.iter().for_each(Rate::turn);
    }

    pub fn rate(&self, origin: Origin) -> &Rate {
        let [external, local] = &self.rates;
        match origin {
            Origin::External => external,
            Origin::Local => local,
        }
    }

    pub fn rates(&self) -> SuccessRates {
        [Origin::External, Origin::Local].map(|origin| self.rate(origin).shown())
    }
}

/// Requests of one host, and how many of them went well, by interval.
#[derive(Debug, Default)]
pub(super) struct Rate {
    counts: [Counts; 2],
    /// The one of `counts` that is written.
    current: AtomicUsize,
    /// For the admin page: bits of the percentage, valid with `is_shown`.
    shown: AtomicU64,
    is_shown: AtomicU32,
}

#[derive(Debug, Default)]
struct Counts {
    successes: AtomicU64,
    requests: AtomicU64,
}

impl Rate {
    fn count(&self, is_success: bool) {
        let [even, odd] = &self.counts;
        let counts = if self.current.load(Relaxed) == 0 { even } else { odd };
        counts.requests.fetch_add(1, Relaxed);
        if is_success {
            counts.successes.fetch_add(1, Relaxed);
        }
    }

    /// Writes go to the other counts from now on, which begin at zero.
    fn turn(&self) {
        let [even, odd] = &self.counts;
        let next = 1 - self.current.load(Relaxed).min(1);
        let fresh = if next == 0 { even } else { odd };
        fresh.successes.store(0, Relaxed);
        fresh.requests.store(0, Relaxed);
        self.current.store(next, Relaxed);
        self.is_shown.store(0, Relaxed);
    }

    /// Percentage and number of requests of the interval that is over; `None` if there were none.
    pub fn last(&self) -> Option<(f64, u64)> {
        let [even, odd] = &self.counts;
        let counts = if self.current.load(Relaxed) == 0 { odd } else { even };
        let requests = counts.requests.load(Relaxed);
        let successes = counts.successes.load(Relaxed);
        (requests > 0).then(|| (successes as f64 * 100.0 / requests as f64, requests))
    }

    /// The admin page may say so.
    pub fn show(&self, percentage: f64) {
        self.shown.store(percentage.to_bits(), Relaxed);
        self.is_shown.store(1, Relaxed);
    }

    fn shown(&self) -> f64 {
        match self.is_shown.load(Relaxed) {
            0 => -1.0,
            _ => f64::from_bits(self.shown.load(Relaxed)),
        }
    }
}
