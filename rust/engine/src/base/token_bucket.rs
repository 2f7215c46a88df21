//! A token bucket that any number of workers draw from, without a lock.
//!
//! Its state is one number: the time at which it was, or would have been, empty. The tokens that it holds are what has
//! come since then, up to its size; who takes one moves that time on. So nothing has to fill it, and the decision is one
//! compare-and-swap.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pymesh_model::filter::TokenBucket as Size;

use super::time::Time;

/// See the [module](self).
#[derive(Debug)]
pub struct TokenBucket {
    /// Seconds, as the bits of an `f64`.
    empty_at: AtomicU64,
    most: f64,
    /// Tokens in a second.
    rate: f64,
}

fn seconds(time: Time) -> f64 {
    time.as_nanos() as f64 / 1e9
}

impl TokenBucket {
    /// A full one.
    pub fn new(size: Size, now: Time) -> TokenBucket {
        let most = f64::from(size.max_tokens);
        let rate = f64::from(size.tokens_per_fill) / size.fill_interval.max(Duration::from_nanos(1)).as_secs_f64();
        TokenBucket { empty_at: AtomicU64::new((seconds(now) - most / rate).to_bits()), most, rate }
    }

    /// Takes one token, if there is one.
    pub fn take(&self, now: Time) -> bool {
        let now = seconds(now);
        let taken = self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            let held = self.held(f64::from_bits(bits), now);
            (held >= 1.0).then(|| (now - (held - 1.0) / self.rate).to_bits())
        });
        taken.is_ok()
    }

    fn held(&self, empty_at: f64, now: f64) -> f64 {
        ((now - empty_at) * self.rate).clamp(0.0, self.most)
    }

    /// What it holds when it is full.
    pub fn size(&self) -> u64 {
        self.most as u64
    }

    /// Whole tokens that are left.
    pub fn left(&self, now: Time) -> u64 {
        self.held(f64::from_bits(self.empty_at.load(Ordering::Relaxed)), seconds(now)) as u64
    }

    /// How long until there is one; zero if there is.
    pub fn wait(&self, now: Time) -> Duration {
        let held = self.held(f64::from_bits(self.empty_at.load(Ordering::Relaxed)), seconds(now));
        Duration::try_from_secs_f64((1.0 - held).max(0.0) / self.rate).unwrap_or(Duration::MAX)
    }

    /// Tokens in a second.
    pub fn rate(&self) -> f64 {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    fn bucket(max_tokens: u32, tokens_per_fill: u32, millis: u64) -> TokenBucket {
        let size = Size { max_tokens, tokens_per_fill, fill_interval: Duration::from_millis(millis) };
        TokenBucket::new(size, at(10_000))
    }

    #[test]
    fn it_is_full_at_first_and_fills_with_time() {
        let bucket = bucket(3, 2, 1000);
        let take = |millis| bucket.take(at(millis));
        assert_eq!([10_000, 10_000, 10_000, 10_000].map(take), [true, true, true, false]);
        assert_eq!((bucket.left(at(10_000)), bucket.wait(at(10_000))), (0, Duration::from_millis(500)));
        assert_eq!([10_499, 10_500, 10_501].map(take), [false, true, false]);
        assert_eq!(bucket.left(at(60_000)), 3, "it holds no more than its size");
        assert_eq!([60_000, 60_000, 60_000, 60_000].map(take), [true, true, true, false]);
    }

    #[test]
    fn of_any_number_of_workers_no_more_get_one_than_there_are() {
        let bucket = bucket(1000, 1, 3_600_000);
        let taken: usize = std::thread::scope(|scope| {
            let worker = || (0..1000).filter(|_| bucket.take(at(10_000))).count();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn an_earlier_time_takes_nothing_back() {
        let bucket = bucket(1, 1, 1000);
        assert!(bucket.take(at(10_000)));
        assert!(!bucket.take(at(9_000)), "another worker's clock was read a moment ago");
        assert!(bucket.take(at(11_000)));
    }
}
