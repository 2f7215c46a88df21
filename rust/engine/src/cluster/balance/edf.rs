//! Earliest deadline first: turns in proportion to weights that may change between turns.
//!
//! Each entry comes up again a time of `1 / weight` after its last turn. Entries begin somewhere within that time,
//! at random, which keeps the workers of a process, and proxies that start together, from marching in step.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::base::rng::Rng;

/// The entries are the numbers from zero.
pub(super) struct Edf {
    queue: BinaryHeap<Turn>,
    /// Of two turns at the same time the one that has waited longer comes first.
    sequence: u64,
}

struct Turn {
    at: f64,
    sequence: u64,
    entry: usize,
}

impl Edf {
    /// One entry for each weight, which is above zero.
    pub fn new(weights: impl Iterator<Item = f64>, rng: &mut Rng) -> Edf {
        let mut edf = Edf { queue: BinaryHeap::new(), sequence: 0 };
        for (entry, weight) in weights.enumerate() {
            edf.push(rng.unit() / weight, entry);
        }
        edf
    }

    /// Whose turn it is; `weight` says when the next one is. `None` if there are no entries.
    pub fn next(&mut self, weight: impl FnOnce(usize) -> f64) -> Option<usize> {
        let Turn { at, entry, .. } = self.queue.pop()?;
        self.push(at + 1.0 / weight(entry), entry);
        Some(entry)
    }

    fn push(&mut self, at: f64, entry: usize) {
        self.queue.push(Turn { at, sequence: self.sequence, entry });
        self.sequence = self.sequence.wrapping_add(1);
    }
}

/// The heap gives the greatest first.
impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.sequence.cmp(&self.sequence))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of each entry among the next `count`.
    fn turns(edf: &mut Edf, weights: &[f64], count: usize) -> Vec<usize> {
        let mut seen = vec![0; weights.len()];
        for _ in 0..count {
            seen[edf.next(|entry| weights[entry]).unwrap()] += 1;
        }
        seen
    }

    #[test]
    fn every_period_is_shared_exactly_wherever_it_begins() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let weights = [1.0, 3.0, 4.0];
            let mut edf = Edf::new(weights.into_iter(), &mut rng);
            turns(&mut edf, &weights, seed as usize % 8);
            for _ in 0..10 {
                assert_eq!(turns(&mut edf, &weights, 8), [1, 3, 4], "seed {seed}");
            }
        }
    }

    #[test]
    fn equal_weights_alternate_and_changed_ones_count_from_the_next_turn() {
        let mut rng = Rng::new(1);
        let mut edf = Edf::new([2.0, 2.0].into_iter(), &mut rng);
        assert_eq!(turns(&mut edf, &[2.0, 2.0], 2), [1, 1]);
        turns(&mut edf, &[1.0, 9.0], 20);
        let seen = turns(&mut edf, &[1.0, 9.0], 1000);
        assert!((99..=101).contains(&seen[0]), "{seen:?}");
        assert_eq!(Edf::new([].into_iter(), &mut rng).next(|_| 1.0), None);
    }
}
