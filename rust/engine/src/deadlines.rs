//! The deadlines of connections, exchanges, clusters, health checks, fetchers of keys and queues of spans in one queue.

use crate::base::time::Time;
use crate::base::timers::{Armed, Timers};
use crate::check::CheckKey;
use crate::cluster::ClusterKey;
use crate::conn::ConnKey;
use crate::exchange::ExchangeKey;
use crate::jwks::FetcherKey;
use crate::otlp::OtlpQueueKey;

/// One entry per place in the slabs, whoever lives there: a stream of short
/// requests leaves one entry behind it, not one each.
#[derive(Default)]
pub(crate) struct Deadlines {
    queue: Timers,
    conns: Vec<Armed>,
    exchanges: Vec<Armed>,
    clusters: Vec<Armed>,
    checks: Vec<Armed>,
    fetchers: Vec<Armed>,
    otlp_queues: Vec<Armed>,
}

/// An owner in the queue is its index with its kind in the lowest bits.
const KIND_BITS: u32 = 3;
const KIND: u64 = (1 << KIND_BITS) - 1;
const CONN: u64 = 0;
const EXCHANGE: u64 = 1;
const CLUSTER: u64 = 2;
const CHECK: u64 = 3;
const FETCHER: u64 = 4;
const OTLP_QUEUE: u64 = 5;

/// A place whose deadline may have passed.
pub(crate) enum Expired {
    Conn(usize),
    Exchange(usize),
    Cluster(usize),
    Check(usize),
    Fetcher(usize),
    OtlpQueue(usize),
}

impl Deadlines {
    pub fn arm_conn(&mut self, key: ConnKey, deadline: Time) {
        let armed = place(&mut self.conns, key.index());
        self.queue.arm(armed, deadline, (key.index() as u64) << KIND_BITS | CONN);
    }

    pub fn arm_exchange(&mut self, key: ExchangeKey, deadline: Time) {
        let armed = place(&mut self.exchanges, key.index());
        self.queue.arm(armed, deadline, (key.index() as u64) << KIND_BITS | EXCHANGE);
    }

    pub fn arm_cluster(&mut self, key: ClusterKey, deadline: Time) {
        let armed = place(&mut self.clusters, key.index());
        self.queue.arm(armed, deadline, (key.index() as u64) << KIND_BITS | CLUSTER);
    }

    pub fn arm_check(&mut self, key: CheckKey, deadline: Time) {
        let armed = place(&mut self.checks, key.index());
        self.queue.arm(armed, deadline, (key.index() as u64) << KIND_BITS | CHECK);
    }

    pub fn arm_fetcher(&mut self, key: FetcherKey, deadline: Time) {
        let armed = place(&mut self.fetchers, key.index());
        self.queue.arm(armed, deadline, (key.index() as u64) << KIND_BITS | FETCHER);
    }

    pub fn arm_otlp_queue(&mut self, key: OtlpQueueKey, deadline: Time) {
        let armed = place(&mut self.otlp_queues, key.index());
        self.queue.arm(armed, deadline, (key.index() as u64) << KIND_BITS | OTLP_QUEUE);
    }

    /// The next place to look at.
    pub fn pop(&mut self, now: Time) -> Option<Expired> {
        while let Some((due, owner)) = self.queue.pop(now) {
            let index = (owner >> KIND_BITS) as usize;
            let (armed, expired) = match owner & KIND {
                CONN => (self.conns.get_mut(index), Expired::Conn(index)),
                EXCHANGE => (self.exchanges.get_mut(index), Expired::Exchange(index)),
                CLUSTER => (self.clusters.get_mut(index), Expired::Cluster(index)),
                CHECK => (self.checks.get_mut(index), Expired::Check(index)),
                FETCHER => (self.fetchers.get_mut(index), Expired::Fetcher(index)),
                _ => (self.otlp_queues.get_mut(index), Expired::OtlpQueue(index)),
            };
            if armed.is_some_and(|armed| Timers::disarm(armed, due)) {
                return Some(expired);
            }
        }
        None
    }

    pub fn next(&self) -> Option<Time> {
        self.queue.next()
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }
}

fn place(armed: &mut Vec<Armed>, index: usize) -> &mut Armed {
    if armed.len() <= index {
        armed.resize_with(index + 1, Armed::default);
    }
    // The vector was just made long enough.
    #[allow(clippy::indexing_slicing)]
    &mut armed[index]
}
