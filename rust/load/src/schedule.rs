//! Intended starts of an open loop. Nothing that the target does moves them.

use pymesh_engine::base::rng::Rng;
use pymesh_engine::base::time::Time;

use crate::plan::Share;

/// How the requests of an open loop are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// At equal distances.
    Constant,
    /// At random, independent of each other: a Poisson process. The same seed gives the same times.
    Poisson {
        /// Of the generator of distances.
        seed: u64,
    },
}

/// One worker's intended starts, in order. The workers' together have the whole rate: evenly spaced ones interleave, and
/// Poisson processes add up to one.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    start: Time,
    next: Time,
    spread: Spread,
}

#[derive(Clone, Debug)]
enum Spread {
    /// The number of the next request among those of all workers, and how many workers there are.
    Constant { nanos: f64, number: u64, step: u64 },
    /// The mean distance; seconds so far are added up as a float, whose error stays far below a nanosecond's worth.
    Poisson { mean_nanos: f64, at_nanos: f64, rng: Rng },
}

impl Schedule {
    pub(crate) fn new(start: Time, rate: f64, arrivals: Arrivals, share: Share) -> Schedule {
        let spread = match arrivals {
            Arrivals::Constant => {
                Spread::Constant { nanos: 1e9 / rate, number: share.worker as u64, step: share.of.max(1) as u64 }
            }
            Arrivals::Poisson { seed } => Spread::Poisson {
                mean_nanos: 1e9 / rate * share.of.max(1) as f64,
                at_nanos: 0.0,
                // Golden ratio: neighbouring seeds and workers have nothing in common.
                rng: Rng::new(seed ^ (share.worker as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            },
        };
        let mut schedule = Schedule { start, next: start, spread };
        schedule.advance();
        schedule
    }

    /// The next intended start.
    pub(crate) fn next(&self) -> Time {
        self.next
    }

    /// Goes on to the one after it.
    pub(crate) fn advance(&mut self) {
        let after = match &mut self.spread {
            Spread::Constant { nanos, number, step } => {
                // By multiplication: the thousandth start is not a thousand rounding errors away from its place.
                let at = *number as f64 * *nanos;
                *number += *step;
                at
            }
            Spread::Poisson { mean_nanos, at_nanos, rng } => {
                *at_nanos -= rng.unit().ln() * *mean_nanos;
                *at_nanos
            }
        };
        self.next = Time::from_nanos(self.start.as_nanos().saturating_add(after as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(rate: f64, arrivals: Arrivals, share: Share, count: usize) -> Vec<u64> {
        let mut schedule = Schedule::new(Time::from_nanos(1_000), rate, arrivals, share);
        let mut found = Vec::new();
        for _ in 0..count {
            found.push(schedule.next().as_nanos() - 1_000);
            schedule.advance();
        }
        found
    }

    #[test]
    fn even_starts_of_workers_interleave() {
        let alone = starts(4.0, Arrivals::Constant, Share { worker: 0, of: 1 }, 4);
        assert_eq!(alone, [0, 250_000_000, 500_000_000, 750_000_000]);
        let second = starts(4.0, Arrivals::Constant, Share { worker: 1, of: 2 }, 2);
        assert_eq!(second, [250_000_000, 750_000_000]);
    }

    #[test]
    fn rounding_does_not_add_up() {
        let last = *starts(3.0, Arrivals::Constant, Share { worker: 0, of: 1 }, 300_001).last().unwrap();
        assert_eq!(last, 100_000_000_000_000);
    }

    #[test]
    fn a_poisson_process_has_its_rate_and_its_spread_and_is_repeatable() {
        let share = |worker| Share { worker, of: 2 };
        let arrivals = Arrivals::Poisson { seed: 7 };
        let first = starts(2_000.0, arrivals, share(0), 100_000);
        assert_eq!(first, starts(2_000.0, arrivals, share(0), 100_000));
        assert_ne!(first, starts(2_000.0, arrivals, share(1), 100_000));
        let gaps: Vec<f64> = first.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Exponential distances: the standard deviation is the mean, here of one millisecond for each of two workers.
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert!((variance.sqrt() - 1.0).abs() < 0.02, "{variance}");
    }
}
