//! What a worker has counted; the tallies of all workers add up.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use pymesh_engine::base::time::Time;

use crate::series::Series;

/// Different texts that are kept for each kind of failure.
const EXAMPLES: usize = 5;

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// There was no connection to send it on: none could be made.
    Connect,
    /// The connection that it would have had failed in its TLS handshake.
    Tls,
    /// No answer in time.
    Timeout,
    /// The target closed the connection before the whole answer.
    Closed,
    /// The target reset the connection, or the stream.
    Reset,
    /// The target refused the stream unseen (HTTP/2's `REFUSED_STREAM`).
    Refused,
    /// The answer was no HTTP.
    Protocol,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 7] =
        [Kind::Connect, Kind::Tls, Kind::Timeout, Kind::Closed, Kind::Reset, Kind::Refused, Kind::Protocol];

    /// As reports write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Connect => "connect",
            Kind::Tls => "tls",
            Kind::Timeout => "timeout",
            Kind::Closed => "closed",
            Kind::Reset => "reset",
            Kind::Refused => "refused",
            Kind::Protocol => "protocol",
        }
    }
}

/// Failures of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Requests.
    pub count: u64,
    /// A few of the texts that came with them.
    pub examples: Vec<String>,
}

/// What became of connections, warm-up included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// That could be used: TCP, TLS and, with HTTP/2, the target's SETTINGS.
    pub opened: u64,
    /// That never could.
    pub failed: u64,
    /// That the target closed, or said it would, with nothing under way.
    pub closed_by_target: u64,
}

/// What has been counted since the warm-up ended.
#[derive(Clone)]
pub struct Tally {
    /// Nanoseconds from intended start to the end of the answer, or to the end of patience.
    pub latency: Histogram<u64>,
    /// The same from when it was sent: what a closed loop would have seen.
    pub service: Histogram<u64>,
    /// How much later than intended the generator woke up to a request, whether it could be sent then or not.
    pub lag: Histogram<u64>,
    /// From the start of a connection until it could be used.
    pub connect: Histogram<u64>,
    /// Requests that have begun.
    pub begun: u64,
    /// Answers that came while requests still began.
    pub answered_in_time: u64,
    /// Requests that were cut off by the end of a run that was interrupted.
    pub unfinished: u64,
    /// Requests that a closing HTTP/2 connection had not taken and another one got.
    pub resent: u64,
    /// Body octets of answers.
    pub body_octets: u64,
    /// Most requests of a worker that waited for a connection with room.
    pub waiting_most: usize,
    /// Connections.
    pub connections: Connections,
    /// Over time.
    pub series: Series,
    /// From the end of the warm-up until no more requests begin.
    pub window: Duration,
    /// CPU time of the worker's thread over its time: near 1 the generator is the limit.
    pub busy: f64,
    statuses: Vec<u64>,
    failures: [Failures; Kind::ALL.len()],
}

/// Values are kept to so many digits, 1 to 5.
#[allow(clippy::expect_used)] // the only error is another number of digits
pub(crate) fn histogram(digits: u8) -> Histogram<u64> {
    let mut made = Histogram::new(digits.clamp(1, 5)).expect("1 to 5 digits");
    made.auto(true);
    made
}

/// Adds a value to a histogram that grows: the only error would be that it does not.
pub(crate) fn record(histogram: &mut Histogram<u64>, value: u64) {
    let _grows = histogram.record(value);
}

/// Adds the values of another one, under the same condition.
pub(crate) fn add(histogram: &mut Histogram<u64>, more: &Histogram<u64>) {
    let _grows = histogram.add(more);
}

/// A histogram as (value, how often); values are rounded up to what it tells apart, the largest is exact.
pub fn recorded(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    let most = histogram.max();
    histogram.iter_recorded().map(|step| (step.value_iterated_to().min(most), step.count_at_value())).collect()
}

impl Tally {
    pub(crate) fn new(start: Time, width: Duration) -> Tally {
        Tally {
            latency: histogram(3),
            service: histogram(3),
            lag: histogram(3),
            connect: histogram(3),
            begun: 0,
            answered_in_time: 0,
            unfinished: 0,
            resent: 0,
            body_octets: 0,
            waiting_most: 0,
            connections: Connections::default(),
            series: Series::new(start, width),
            window: Duration::ZERO,
            busy: 0.0,
            statuses: vec![0; 1000],
            failures: Default::default(),
        }
    }

    /// Answers by status code.
    pub fn statuses(&self) -> BTreeMap<u16, u64> {
        let all = self.statuses.iter().zip(0u16..);
        all.filter(|(count, _)| **count > 0).map(|(count, status)| (status, *count)).collect()
    }

    /// Answers.
    pub fn answered(&self) -> u64 {
        self.statuses.iter().sum()
    }

    /// Failures of a kind.
    pub fn failures(&self, kind: Kind) -> &Failures {
        const NONE: &Failures = &Failures { count: 0, examples: Vec::new() };
        self.failures.get(kind as usize).unwrap_or(NONE)
    }

    /// Requests that were not answered.
    pub fn failed(&self) -> u64 {
        self.failures.iter().map(|failures| failures.count).sum()
    }

    pub(crate) fn count_status(&mut self, status: u16) {
        if let Some(count) = self.statuses.get_mut(usize::from(status)) {
            *count += 1;
        }
    }

    pub(crate) fn count_failure(&mut self, kind: Kind, why: &str) {
        if let Some(failures) = self.failures.get_mut(kind as usize) {
            failures.count += 1;
            failures.note(why);
        }
    }

    /// What another worker has counted.
    pub fn merge(&mut self, other: &Tally) {
        for (mine, more) in [
            (&mut self.latency, &other.latency),
            (&mut self.service, &other.service),
            (&mut self.lag, &other.lag),
            (&mut self.connect, &other.connect),
        ] {
            add(mine, more);
        }
        self.begun += other.begun;
        self.answered_in_time += other.answered_in_time;
        self.unfinished += other.unfinished;
        self.resent += other.resent;
        self.body_octets += other.body_octets;
        self.waiting_most = self.waiting_most.max(other.waiting_most);
        self.connections.opened += other.connections.opened;
        self.connections.failed += other.connections.failed;
        self.connections.closed_by_target += other.connections.closed_by_target;
        self.series.merge(&other.series);
        self.window = self.window.max(other.window);
        self.busy = self.busy.max(other.busy);
        for (mine, more) in self.statuses.iter_mut().zip(&other.statuses) {
            *mine += more;
        }
        for (mine, more) in self.failures.iter_mut().zip(&other.failures) {
            mine.count += more.count;
            more.examples.iter().for_each(|why| mine.note(why));
        }
    }
}

impl Failures {
    fn note(&mut self, why: &str) {
        if self.examples.len() < EXAMPLES && !self.examples.iter().any(|known| known == why) {
            self.examples.push(why.to_owned());
        }
    }
}
