//! Deadlines that are cheap to move.
//!
//! Traffic moves deadlines far more often than they pass: each octet pushes an
//! idle timeout back. So an owner keeps its own `deadline`, and the queue
//! holds at most one entry for it that is due no later ([`Armed`]). Moving a
//! deadline back costs a store; when the entry comes up, the owner is asked
//! for its real deadline and the entry is put back if that is later.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::time::Time;

/// Part of whatever has a deadline: when its entry in the queue is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed(Time);

impl Default for Armed {
    fn default() -> Self {
        Armed(Time::NEVER)
    }
}

/// A queue of `(due, owner)`.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Time, u64)>>,
}

impl Timers {
    /// Makes sure that `owner` comes up at `deadline` or earlier.
    pub fn arm(&mut self, armed: &mut Armed, deadline: Time, owner: u64) {
        if deadline < armed.0 {
            armed.0 = deadline;
            self.heap.push(Reverse((deadline, owner)));
        }
    }

    /// The next owner that may be due. The caller compares the owner's real
    /// deadline, and calls [`Timers::disarm`] on its [`Armed`] first.
    pub fn pop(&mut self, now: Time) -> Option<(Time, u64)> {
        let &Reverse((due, owner)) = self.heap.peek()?;
        if due > now {
            return None;
        }
        self.heap.pop();
        Some((due, owner))
    }

    /// Notes that the entry due at `due` is gone. False if the owner had a
    /// different entry in mind, in which case this one is stale.
    pub fn disarm(armed: &mut Armed, due: Time) -> bool {
        let current = armed.0 == due;
        if current {
            armed.0 = Time::NEVER;
        }
        current
    }

    /// Entries, stale ones included.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True if nothing is due, ever.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// When the next entry is due.
    pub fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_back_costs_nothing_and_moving_forward_fires_early() {
        let t = Time::from_nanos;
        let (mut timers, mut armed) = (Timers::default(), Armed::default());
        timers.arm(&mut armed, t(10), 1);
        timers.arm(&mut armed, t(20), 1);
        assert_eq!(timers.heap.len(), 1);
        timers.arm(&mut armed, t(5), 1);
        assert_eq!(timers.next(), Some(t(5)));
        assert_eq!(timers.pop(t(4)), None);
        assert_eq!(timers.pop(t(5)), Some((t(5), 1)));
        assert!(Timers::disarm(&mut armed, t(5)));
        timers.arm(&mut armed, t(20), 1);
        let (due, _) = timers.pop(t(10)).unwrap();
        assert!(!Timers::disarm(&mut armed, due), "the entry of 10 is stale");
    }
}
