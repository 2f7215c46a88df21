//! The deadlines of connections and exchanges in one queue.

use crate::base::time::Time;
use crate::base::timers::{Armed, Timers};
use crate::conn::ConnKey;
use crate::exchange::ExchangeKey;

/// One entry per place in the slabs, whoever lives there: a stream of short
/// requests leaves one entry behind it, not one each.
#[derive(Default)]
pub(crate) struct Deadlines {
    queue: Timers,
    conns: Vec<Armed>,
    exchanges: Vec<Armed>,
}

/// A place whose deadline may have passed.
pub(crate) enum Expired {
    Conn(usize),
    Exchange(usize),
}

impl Deadlines {
    pub fn arm_conn(&mut self, key: ConnKey, deadline: Time) {
        let armed = place(&mut self.conns, key.index());
        self.queue.arm(armed, deadline, (key.index() as u64) << 1);
    }

    pub fn arm_exchange(&mut self, key: ExchangeKey, deadline: Time) {
        let armed = place(&mut self.exchanges, key.index());
        self.queue.arm(armed, deadline, (key.index() as u64) << 1 | 1);
    }

    /// The next place to look at.
    pub fn pop(&mut self, now: Time) -> Option<Expired> {
        while let Some((due, owner)) = self.queue.pop(now) {
            let index = (owner >> 1) as usize;
            let is_exchange = owner & 1 == 1;
            let armed = if is_exchange { self.exchanges.get_mut(index) } else { self.conns.get_mut(index) };
            if armed.is_some_and(|armed| Timers::disarm(armed, due)) {
                return Some(if is_exchange { Expired::Exchange(index) } else { Expired::Conn(index) });
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
